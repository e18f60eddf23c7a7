package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"storefs/daemon"
	"storefs/store"
)

type logCmd struct {
	Path   string `arg:"" help:"A derivation, an output path, or a path below one; FILE.star:TARGET."`
	Follow bool   `short:"f" help:"Go on as long as the builder runs, and wait for it if it is to run."`
	argFlags
}

func (*logCmd) Help() string {
	return `Prints what the builder wrote the last time it ran, byte for byte.`
}

func (c *logCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "log", watch: true}, func(client *daemon.Client) error {
		paths, err := a.named(ctx, client, []string{c.Path}, c.argFlags)
		if err != nil {
			return err
		}
		if len(paths) != 1 {
			return badInputf("log: %s stands for %d paths: name one of them (FILE.star:TARGET)", c.Path, len(paths))
		}
		if a.JSON {
			return c.json(ctx, a, client, paths[0])
		}
		return noLog(c.Path, client.Log(ctx, paths[0], c.Follow, &flow{ctx: ctx, file: a.stdout}))
	})
}

// json prints the log as one string, with replacements for what is not UTF-8.
func (c *logCmd) json(ctx context.Context, a *app, client *daemon.Client, p store.Path) error {
	var b strings.Builder
	if err := noLog(c.Path, client.Log(ctx, p, c.Follow, &b)); err != nil {
		return err
	}
	return a.print(map[string]string{"path": string(p), "log": b.String()}, nil)
}

func noLog(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("log %s: there is none: it was not built here", path)
	}
	return err
}
