package main

import (
	"context"

	"storefs/daemon"
)

type deleteCmd struct {
	Paths []string `arg:"" name:"path" help:"Valid paths."`
}

func (*deleteCmd) Help() string {
	return `Removes paths from the store, all of them or none, and prints what was removed. What something else refers to is not removed. A path whose derivation is known can be realised again.`
}

func (c *deleteCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "delete"}, func(client *daemon.Client) error {
		paths, err := storePaths(client, c.Paths)
		if err != nil {
			return err
		}
		deleted, err := client.Delete(ctx, unique(paths))
		if err != nil {
			return err
		}
		return printLines(a, deleted)
	})
}
