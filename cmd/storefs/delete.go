package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"storefs/daemon"
	"storefs/state"
	"storefs/store"
	"storefs/tree"
)

type deleteCmd struct {
	Paths []string `arg:"" name:"path" help:"Valid paths; FILE.star[:TARGET]: what it makes. Or scratch directories: STATE/builds/kept-…"`
	argFlags
}

func (*deleteCmd) Help() string {
	return `Removes paths from the store, all of them or none, and prints what was removed: also the closure expressions (…-s.store) that were only normal forms of them. What something else refers to, a running build uses, or a root leads to (query roots), is not removed. A path whose derivation is known can be realised again.

Or removes scratch directories that build --keep-failed has left (status says where).`
}

func (c *deleteCmd) Run(ctx context.Context, a *app) error {
	if err := a.findState(); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Paths, func(p string) bool { return !state.IsKept(a.State, p) }) {
		return removeKept(ctx, a, c.Paths)
	}
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

// removeKept removes scratch directories that were kept, which are nobody's but their
// user's. What builders have left in them, rm may be unable to remove.
func removeKept(ctx context.Context, a *app, dirs []string) error {
	if _, err := state.StoreDir(a.State); err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := os.Lstat(dir); err != nil {
			return badInput(err)
		}
	}
	for _, dir := range dirs {
		dir := filepath.Clean(dir) // a shell completes it with a slash
		if _, err := await(ctx, func() (any, error) { return nil, tree.RemoveAll(dir) }); err != nil {
			return err
		}
	}
	return printLines(a, dirs)
}
