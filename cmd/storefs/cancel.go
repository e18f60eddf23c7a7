package main

import (
	"context"
	"fmt"
	"strings"

	"storefs/daemon"
	"storefs/store"
)

type cancelCmd struct {
	Paths []string `arg:"" optional:"" name:"path" help:"Store expressions, output paths, or paths below one; FILE.star[:TARGET]."`
	All   bool     `help:"End everything that is being made, or waits for it."`
	argFlags
}

func (*cancelCmd) Help() string {
	return `Ends what is being made of paths, and what only they need, whoever waits for it: a caller of the mount gets ECANCELED, storefs build fails. What needs the paths fails as well. Prints what has ended: derivations, and paths that were to be substituted.

Whoever touches a path again within five seconds gets ECANCELED at once, and after that has it made. (mount --policy keeps programs from that, mount --cancel-orphans ends by itself what nobody waits for any more.) What is built already, and is just being registered, is let be.`
}

func (c *cancelCmd) Run(ctx context.Context, a *app) error {
	if c.All == (len(c.Paths) > 0) {
		return badInputf("cancel: give paths, or --all")
	}
	return a.connect(ctx, ownerOptions{role: "cancel", repeat: true, watch: true}, func(client *daemon.Client) error {
		if c.All {
			ended, err := client.CancelAll(ctx)
			if err != nil {
				return err
			}
			return printLines(a, ended)
		}
		paths, err := a.named(ctx, client, c.Paths, c.argFlags)
		if err != nil {
			return err
		}
		ended, err := client.Cancel(ctx, paths)
		if err != nil {
			return err
		}
		var told []store.Path
		var idle []string
		for i, p := range ended {
			if p == "" {
				idle = append(idle, string(paths[i]))
			} else {
				told = append(told, p)
			}
		}
		if err := printLines(a, unique(told)); err != nil {
			return err
		}
		if len(idle) > 0 {
			return fmt.Errorf("cancel %s: not being made", strings.Join(idle, ", "))
		}
		return nil
	})
}
