package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"storefs/daemon"
	"storefs/nar"
	"storefs/store"
)

type addCmd struct {
	Paths []string `arg:"" name:"path" help:"Files, directories or links."`
	Name  string   `help:"What it is called in the store. [the last component of the path]"`
	Flat  bool     `help:"Name a file by the hash of its content alone, as a flat fixed output has it, and not of its NAR."`
}

func (*addCmd) Help() string {
	return `Copies files into the store as they are, but for owners, times and modes, and prints their paths, which follow from their contents. What is there already is not copied again.`
}

func (c *addCmd) Run(ctx context.Context, a *app) error {
	if c.Name != "" && len(c.Paths) > 1 {
		return badInputf("add: --name is for one path")
	}
	return a.connect(ctx, ownerOptions{role: "add", repeat: true}, func(client *daemon.Client) error {
		var added []store.Info
		for _, p := range c.Paths {
			info, err := c.add(ctx, client, p)
			if err != nil {
				return fileError(fmt.Errorf("add %s: %w", p, err))
			}
			added = append(added, info)
		}
		return a.print(added, func(w io.Writer) {
			for _, i := range added {
				fmt.Fprintln(w, i.Path)
			}
		})
	})
}

func (c *addCmd) add(ctx context.Context, client *daemon.Client, p string) (store.Info, error) {
	name := c.Name
	if name == "" {
		abs, err := filepath.Abs(p)
		if err != nil {
			return store.Info{}, err
		}
		name = filepath.Base(abs)
	}
	path, err := await(ctx, func() (store.Path, error) { return c.path(ctx, client.Hello().Store, p, name) })
	if err != nil {
		return store.Info{}, err
	}
	missing, err := client.Missing(ctx, []store.Path{path})
	if err != nil {
		return store.Info{}, err
	}
	if len(missing) == 0 {
		return client.Info(ctx, path)
	}
	return addNAR(ctx, client, name, !c.Flat, func(w io.Writer) error { return nar.Dump(w, p) })
}

// path is what the store path will be.
func (c *addCmd) path(ctx context.Context, dir store.Dir, p, name string) (store.Path, error) {
	h, err := nar.HashAs(ctx, p, store.SHA256, !c.Flat)
	if err != nil {
		return "", err
	}
	return store.FixedPath(dir, !c.Flat, h, name, nil, false)
}
