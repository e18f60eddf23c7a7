package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"storefs/daemon"
)

type logCmd struct {
	Path   string `arg:"" help:"A derivation, an output path, or a path below one."`
	Follow bool   `short:"f" help:"Go on as long as the builder runs."`
}

func (*logCmd) Help() string {
	return `Prints what the builder wrote the last time it ran, byte for byte.`
}

func (c *logCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "log", watch: true}, func(client *daemon.Client) error {
		paths, err := storePaths(client, []string{c.Path})
		if err != nil {
			return err
		}
		if a.JSON {
			return c.json(ctx, a, client)
		}
		return noLog(c.Path, client.Log(ctx, paths[0], c.Follow, a.stdout))
	})
}

// json prints the log as one string, with replacements for what is not UTF-8.
func (c *logCmd) json(ctx context.Context, a *app, client *daemon.Client) error {
	paths, err := storePaths(client, []string{c.Path})
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := noLog(c.Path, client.Log(ctx, paths[0], c.Follow, &b)); err != nil {
		return err
	}
	return a.print(map[string]string{"path": string(paths[0]), "log": b.String()}, nil)
}

func noLog(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("log %s: there is none: it was not built here", path)
	}
	return err
}
