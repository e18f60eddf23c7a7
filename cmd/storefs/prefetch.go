package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"storefs/daemon"
	"storefs/prefetch"
)

type prefetchCmd struct {
	Export prefetchExportCmd `cmd:"" help:"Print what was learned of programs: one JSON object a line."`
	Import prefetchImportCmd `cmd:"" help:"Take in what was exported elsewhere."`
}

func (*prefetchCmd) Help() string {
	return `A mount with --prefetch-jobs learns which paths programs use one after the other. What it learned follows its store: export and import take it to another machine, where the same programs then begin as if they had run there.`
}

type prefetchExportCmd struct{}

func (c *prefetchExportCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "prefetch"}, func(client *daemon.Client) error {
		all, err := client.Trails(ctx)
		if err != nil {
			return err
		}
		enc := json.NewEncoder(&flow{ctx: ctx, file: a.stdout})
		enc.SetEscapeHTML(false)
		for _, t := range all {
			if err := enc.Encode(t); err != nil {
				return err
			}
		}
		return nil
	})
}

type prefetchImportCmd struct {
	File string `arg:"" optional:"" default:"-" help:"What export printed; - is standard input."`
}

func (*prefetchImportCmd) Help() string {
	return `Of a program that is known here as well, the newer knowledge stays. Prints how much was taken in.`
}

func (c *prefetchImportCmd) Run(ctx context.Context, a *app) error {
	r, name := a.stdin, "standard input"
	if c.File != "-" {
		f, err := await(ctx, func() (*os.File, error) { return os.Open(c.File) })
		if err != nil {
			return badInput(err)
		}
		defer f.Close()
		r, name = f, c.File
	}
	var all []prefetch.Trail
	for dec := json.NewDecoder(&flow{ctx: ctx, file: r}); ; {
		var t prefetch.Trail
		err := dec.Decode(&t)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badInput(fmt.Errorf("prefetch import %s: %w", name, err))
		}
		all = append(all, t)
	}
	return a.connect(ctx, ownerOptions{role: "prefetch"}, func(client *daemon.Client) error {
		n, err := client.AddTrails(ctx, all)
		if err != nil {
			return err
		}
		return a.print(map[string]int{"imported": n}, func(w io.Writer) { fmt.Fprintln(w, n) })
	})
}
