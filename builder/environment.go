package builder

import (
	"os"
	"slices"
	"strconv"

	"storefs/store"
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
	env := map[string]string{
		"PATH":            "/path-not-set",
		"HOME":            "/homeless-shelter",
		"NIX_STORE":       string(b.opts.Store),
		"NIX_BUILD_CORES": strconv.Itoa(min(cores, b.opts.Cores)),
	}
	if b.attrs.structured == nil {
		if err := b.classicEnvironment(env); err != nil {
			return nil, err
		}
		if err := b.writeReferenceGraphs(); err != nil {
			return nil, err
		}
	} else if err := b.writeAttributeFiles(env); err != nil {
		return nil, err
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		env[name] = buildDir
	}
	if _, fixed := d.Fixed(); fixed {
		env["NIX_OUTPUT_CHECKED"] = "1"
		impure, _, err := b.attrs.words("impureEnvVars")
		if err != nil {
			return nil, err
		}
		for _, name := range impure {
			env[name] = os.Getenv(name)
		}
	}
	env["NIX_LOG_FD"] = "2"
	env["TERM"] = "xterm-256color"

	rewrite := placeholders(d)
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, rewrite.Replace(name+"="+value))
	}
	slices.Sort(list)
	return list, nil
}

// classicEnvironment adds the derivation's variables. Those that passAsFile
// names become files: one variable cannot be longer than 128 KiB.
func (b *build) classicEnvironment(env map[string]string) error {
	asFile, _, err := b.attrs.words("passAsFile")
	if err != nil {
		return err
	}
	rewrite := placeholders(b.job.Derivation)
	for _, v := range b.job.Derivation.Env {
		if !slices.Contains(asFile, v.Name) {
			env[v.Name] = v.Value
			continue
		}
		file := ".attr-" + store.HashOf(store.SHA256, []byte(v.Name)).Base32()
		if err := b.writeFile(file, []byte(rewrite.Replace(v.Value))); err != nil {
			return err
		}
		env[v.Name+"Path"] = buildDir + "/" + file
	}
	return nil
}

// writeFile makes a file in the build directory that belongs to the builder.
func (b *build) writeFile(name string, text []byte) error {
	p := b.scratch.path("build", name)
	if err := os.WriteFile(p, text, 0o644); err != nil {
		return err
	}
	return b.ids.give(p)
}
