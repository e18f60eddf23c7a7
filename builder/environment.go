package builder

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"storefs/store"
	"storefs/storeexpr"
)

// environment makes the builder's environment, sorted, as "NAME=VALUE", and the
// files that the derivation wants beside it. Some variables are defaults, that a
// derivation may set; the rest are facts, that it cannot change. The order is
// that of Nix.
func (b *build) environment() ([]string, error) {
	d := b.job.Derivation
	cores, ok, err := d.Cores()
	if err != nil {
		return nil, err
	}
	if !ok || cores == 0 {
		cores = b.opts.Cores
	}
	env := make(variables, 0, len(d.Env)+16)
	env.set("PATH", "/path-not-set")
	env.set("HOME", "/homeless-shelter")
	env.set("NIX_STORE", string(b.opts.Store))
	env.set("NIX_BUILD_CORES", strconv.Itoa(min(cores, b.opts.Cores)))
	if b.attrs.structured == nil {
		if err := b.classicEnvironment(&env); err != nil {
			return nil, err
		}
		if err := b.writeReferenceGraphs(); err != nil {
			return nil, err
		}
	} else if err := b.writeAttributeFiles(&env); err != nil {
		return nil, err
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		env.set(name, buildDir)
	}
	if _, fixed := d.Fixed(); fixed {
		env.set("NIX_OUTPUT_CHECKED", "1")
		impure, _, err := b.attrs.words("impureEnvVars")
		if err != nil {
			return nil, err
		}
		for _, name := range impure {
			env.set(name, os.Getenv(name))
		}
	}
	env.set("NIX_LOG_FD", "2")
	env.set("TERM", "xterm-256color")

	list := env.list()
	for i, v := range list {
		list[i] = b.placeholders.replace(v)
	}
	slices.Sort(list)
	return list, nil
}

// variables are those of an environment, in the order in which they were set.
type variables []storeexpr.EnvVar

// set sets a variable, in the place of what it was set to before.
func (v *variables) set(name, value string) {
	*v = append(*v, storeexpr.EnvVar{Name: name, Value: value})
}

// list is the last of each name, as "NAME=VALUE", in no order.
func (v variables) list() []string {
	slices.SortStableFunc(v, func(a, b storeexpr.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	list := make([]string, 0, len(v))
	for i, one := range v {
		if i+1 == len(v) || v[i+1].Name != one.Name {
			list = append(list, one.Name+"="+one.Value)
		}
	}
	return list
}

// classicEnvironment adds the derivation's variables. Those that passAsFile
// names become files: one variable cannot be longer than 128 KiB.
func (b *build) classicEnvironment(env *variables) error {
	asFile, _, err := b.attrs.words("passAsFile")
	if err != nil {
		return err
	}
	for _, v := range b.job.Derivation.Env {
		if !slices.Contains(asFile, v.Name) {
			env.set(v.Name, v.Value)
			continue
		}
		file := ".attr-" + store.HashOf(store.SHA256, []byte(v.Name)).Base32()
		if err := b.writeFile(file, []byte(b.placeholders.replace(v.Value))); err != nil {
			return err
		}
		env.set(v.Name+"Path", buildDir+"/"+file)
	}
	return nil
}

// writeFile makes a file in the build directory that belongs to the builder, with the
// same mode whatever our umask is.
func (b *build) writeFile(name string, text []byte) error {
	f, err := os.OpenFile(b.scratch.path("build", name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return b.ids.giveOpen(f)
}
