package main

import (
	"context"

	"storefs/daemon"
	"storefs/store"
)

type instantiateCmd struct {
	Files []string `arg:"" name:"file" help:"FILE.star[:TARGET]. Without TARGET: the global called default or, if there is none, all globals that are derivations."`
	argFlags
}

func (*instantiateCmd) Help() string {
	return `Evaluates Starlark files, writes the store expressions of their targets, with the sources that they use, and prints the paths of the expressions, one a line. Nothing is built. "storefs query outputs" tells which paths they will make.`
}

func (c *instantiateCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "instantiate", repeat: true}, func(client *daemon.Client) error {
		wanted, err := a.read(ctx, client, c.Files, c.argFlags, func(string) bool { return true })
		if err != nil {
			return err
		}
		var paths []store.Path
		for _, w := range wanted {
			paths = append(paths, w.target)
		}
		return printLines(a, unique(paths))
	})
}
