package main

import (
	"bufio"
	"context"
	"errors"

	"golang.org/x/term"

	"storefs/daemon"
)

type exportCmd struct {
	Paths []string `arg:"" name:"path" help:"Valid paths; FILE.star[:TARGET]: what it makes."`
	argFlags
}

func (*exportCmd) Help() string {
	return `Writes the paths, and just these, to standard output, as a stream that "storefs import" and "nix-store --import" read. Whoever reads it must have what they refer to. The whole closure:

  storefs export $(storefs query requisites PATH)`
}

func (c *exportCmd) Run(ctx context.Context, a *app) error {
	if term.IsTerminal(int(a.stdout.Fd())) {
		return badInput(errors.New("export: standard output is a terminal"))
	}
	return a.connect(ctx, ownerOptions{role: "export"}, func(client *daemon.Client) error {
		paths, err := a.named(ctx, client, c.Paths, c.argFlags)
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(&flow{ctx: ctx, file: a.stdout}, 64<<10)
		if err := client.Export(ctx, w, unique(paths)); err != nil {
			return err
		}
		return w.Flush()
	})
}
