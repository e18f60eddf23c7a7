package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"storefs/daemon"
	"storefs/store"
)

type importCmd struct {
	Files []string `arg:"" optional:"" name:"file" help:".drv and .store files, and streams of \"nix-store --export\" or \"storefs export\". Without any, or for -: standard input."`
}

func (*importCmd) Help() string {
	return `Puts what the files hold into the store, and prints the paths. A store expression needs its inputs: in the store, or in files with their own names beside it. A stream is taken in whole or not at all.`
}

func (c *importCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "import"}, func(client *daemon.Client) error {
		var exprs, streams []string
		for _, f := range c.Files {
			if isExprFile(f) {
				exprs = append(exprs, f)
			} else {
				streams = append(streams, f)
			}
		}
		if len(c.Files) == 0 {
			streams = []string{"-"}
		}
		var all []store.Path
		for _, f := range streams {
			paths, err := c.stream(ctx, a, client, f)
			if err != nil {
				return err
			}
			all = append(all, paths...)
		}
		if len(exprs) > 0 {
			paths, err := a.importExprs(ctx, client, exprs)
			if err != nil {
				return err
			}
			all = append(all, paths...)
		}
		return printLines(a, all)
	})
}

func (c *importCmd) stream(ctx context.Context, a *app, client *daemon.Client, name string) ([]store.Path, error) {
	if name == "-" {
		if term.IsTerminal(int(a.stdin.Fd())) {
			return nil, badInput(errors.New("import: standard input is a terminal: give it a stream or a file"))
		}
		paths, err := client.Import(ctx, &flow{ctx: ctx, file: a.stdin})
		return paths, unread(err)
	}
	f, err := await(ctx, func() (*os.File, error) { return os.Open(name) })
	if err != nil {
		return nil, badInput(err)
	}
	defer f.Close()
	paths, err := client.Import(ctx, &flow{ctx: ctx, file: f})
	if e := unread(err); e != err {
		return nil, e // it names the file
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return paths, nil
}

// unread makes that a stream could not be read an error of the input: what the
// owner says of it is no such error.
func unread(err error) error {
	var e *os.PathError
	if errors.As(err, &e) && e.Op == "read" {
		return badInput(err)
	}
	return err
}
