package main

import (
	"context"
	"errors"

	"storefs/daemon"
	"storefs/store"
)

type deleteCmd struct {
	Paths []string `arg:"" name:"path" help:"Valid paths; FILE.star[:TARGET]: what it makes."`
	argFlags
}

func (*deleteCmd) Help() string {
	return `Removes paths from the store, all of them or none, and prints what was removed: also the closure expressions (…-s.store) that were only normal forms of them. What something else refers to, a running build uses, or a root leads to (query roots), is not removed. A path whose derivation is known can be realised again.`
}

func (c *deleteCmd) Run(ctx context.Context, a *app) error {
	asked := false
	return a.connect(ctx, ownerOptions{role: "delete", repeat: true}, func(client *daemon.Client) error {
		paths, err := a.named(ctx, client, c.Paths, c.argFlags)
		if err != nil {
			return err
		}
		if asked {
			// An owner that died may have done it, and not said so.
			gone := true
			for _, p := range paths {
				_, err := client.Info(ctx, p)
				if err != nil && !errors.Is(err, store.ErrNotValid) {
					return err
				}
				gone = gone && err != nil
			}
			if gone {
				return printLines(a, paths)
			}
		}
		asked = true
		deleted, err := client.Delete(ctx, unique(paths))
		if err != nil {
			return err
		}
		return printLines(a, deleted)
	})
}
