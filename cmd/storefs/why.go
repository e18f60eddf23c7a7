package main

import (
	"context"
	"fmt"
	"io"

	"storefs/daemon"
)

type whyCmd struct {
	Paths []string `arg:"" name:"path" help:"Store expressions, output paths, or paths below one; FILE.star[:TARGET]."`
	argFlags
}

func (*whyCmd) Help() string {
	return `Says of each path whether it is realised, running, not asked for yet, unknown, or failed; and for a failure the builder, its exit status or signal, the last lines of its log, and the chain of who needed it. A failure is remembered until the path is realised.

The exit status is 1 if one of the paths is unknown, and 0 for all else that can be said of them: --json has that as "state".`
}

func (c *whyCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "why", repeat: true}, func(client *daemon.Client) error {
		paths, err := a.named(ctx, client, c.Paths, c.argFlags)
		if err != nil {
			return err
		}
		var all []*daemon.Why
		for _, p := range paths {
			y, err := client.Why(ctx, p)
			if err != nil {
				return err
			}
			all = append(all, y)
		}
		err = a.print(all, func(w io.Writer) {
			for i, y := range all {
				if i > 0 {
					fmt.Fprintln(w)
				}
				fmt.Fprint(w, y.Text())
			}
		})
		for _, y := range all {
			if err == nil && y.State == daemon.StateUnknown {
				err = &quietError{fmt.Errorf("%s: unknown", y.Path)}
			}
		}
		return err
	})
}
