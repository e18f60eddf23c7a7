// Package buildenv is the program of the builtin builder of that name of Nix, by which
// nix-env makes user environments: a tree of links to what is in several packages. It is
// a process of its own that runs where builders run, and sees what they see.
package buildenv

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Request is what is to be made.
type Request struct {
	Derivations string // the attribute of that name
	Manifest    string // what manifest.nix in the output is a link to
	Output      string // a path where nothing is
}

// Names of the variables that have a request, but for its derivations: those may be longer
// than a variable.
const (
	outputVariable   = "out"
	manifestVariable = "manifest"
)

// Environ is what the environment of a process that calls Main has of r.
func (r Request) Environ() []string {
	return []string{outputVariable + "=" + r.Output, manifestVariable + "=" + r.Manifest}
}

// Main makes what the environment asks for, and the file input, which has the derivations,
// and returns the exit status. What goes wrong is the last line on standard error.
func Main(input string) int {
	derivations, err := os.ReadFile(input)
	if err == nil {
		r := Request{Derivations: string(derivations), Manifest: os.Getenv(manifestVariable), Output: os.Getenv(outputVariable)}
		err = r.make(os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, strings.ReplaceAll(err.Error(), "\n", " "))
		return 1
	}
	return 0
}

// propagated is the file of a package that names others that are to be installed with it.
const propagated = "/nix-support/propagated-user-env-packages"

// firstPropagated is the priority of the first package that only others want. Each that
// follows has the next one.
const firstPropagated = 1000

func (r Request) make(log io.Writer) error {
	packages, err := parse(r.Derivations)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.Output, 0o755); err != nil {
		return err
	}
	l := &links{priorities: make(map[string]int), log: log}
	done, wanted := make(map[string]bool), make(map[string]bool)
	add := func(path string, priority int) error {
		if done[path] {
			return nil
		}
		done[path] = true
		if err := l.add(path, r.Output, priority); err != nil {
			return err
		}
		text, err := os.ReadFile(path + propagated)
		if err != nil && !isAbsent(err) {
			return failure("opening file", path+propagated, err)
		}
		for _, p := range strings.FieldsFunc(string(text), func(c rune) bool { return c == ' ' || c == '\n' }) {
			if !done[p] { // which would take a priority
				wanted[p] = true
			}
		}
		return nil
	}
	slices.SortFunc(packages, compare)
	for _, p := range packages {
		if !p.active {
			continue
		}
		if err := add(p.path, p.priority); err != nil {
			return err
		}
	}
	// Those are behind all others, in rounds: first what packages want, then what that wants.
	for priority := firstPropagated; len(wanted) > 0; {
		round := slices.Sorted(maps.Keys(wanted))
		clear(wanted)
		for _, path := range round {
			if err := add(path, priority); err != nil {
				return err
			}
			priority++
		}
	}
	return os.Symlink(r.Manifest, r.Output+"/manifest.nix")
}

// isAbsent reports whether err is of a name by which there is nothing.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// failure is err, of package os, in the words of Nix.
func failure(doing, path string, err error) error {
	var inner *fs.PathError
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return fmt.Errorf("%s '%s': %w", doing, path, err)
}
