// Gen prepares the machine's own Go for gostd.star: it writes a directory with
//
//	graph.json   the packages of the standard library, each after those it
//	             imports, and which files each is made of
//	toolchain/   bin/{compile,asm,link,driver}, static, and include/
//
// It needs Go and nothing else. What it writes depends on the Go release
// only: not on the environment, and not on when or where it runs.
//
// Usage: go run ./examples/gostd/gen DIRECTORY
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: gen DIRECTORY")
	}
	dir := args[0]
	g, err := findGo()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := g.writeToolchain(filepath.Join(dir, "toolchain")); err != nil {
		return fmt.Errorf("toolchain: %w", err)
	}
	if err := g.writeGraph(filepath.Join(dir, "graph.json")); err != nil {
		return fmt.Errorf("graph: %w", err)
	}
	return nil
}
