// Package unpackchannel is the program of builtin:unpack-channel of Nix, by which
// nix-channel makes a channel of an archive. It is a process of its own that runs where
// builders run, without any right, as it reads what came over a network.
package unpackchannel

import (
	"fmt"
	"os"
	"strings"
)

// Request is what is to be made.
type Request struct {
	Source string // an archive (tar) of one directory, which may be compressed
	Name   string // what that directory is to be called
	Output string // a path where nothing is
}

// Names of the variables that have a request.
const (
	sourceVariable = "src"
	nameVariable   = "channelName"
	outputVariable = "out"
)

// Environ is r as the environment of a process that calls Main.
func (r Request) Environ() []string {
	return []string{sourceVariable + "=" + r.Source, nameVariable + "=" + r.Name, outputVariable + "=" + r.Output}
}

// Main makes what the environment asks for, and returns the exit status. What goes wrong
// is the last line on standard error.
func Main() int {
	r := Request{Source: os.Getenv(sourceVariable), Name: os.Getenv(nameVariable), Output: os.Getenv(outputVariable)}
	if err := r.make(); err != nil {
		fmt.Fprintln(os.Stderr, strings.ReplaceAll(err.Error(), "\n", " "))
		return 1
	}
	return 0
}

func (r Request) make() error {
	if r.Name == "" || r.Name == "." || r.Name == ".." || strings.Contains(r.Name, "/") {
		return fmt.Errorf("channelName %q is no file name", r.Name)
	}
	if err := os.MkdirAll(r.Output, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(r.Output)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unpack(r.Source, root); err != nil {
		return fmt.Errorf("failed to extract archive '%s': %w", r.Source, err)
	}
	entries, err := os.ReadDir(r.Output)
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return fmt.Errorf("channel tarball '%s' contains more than one file", r.Source) // or none, as Nix has it
	}
	if entries[0].Name() == r.Name { // for which package os has an error
		return nil
	}
	return root.Rename(entries[0].Name(), r.Name)
}
