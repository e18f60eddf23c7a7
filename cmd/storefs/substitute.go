package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"storefs/daemon"
	"storefs/store"
)

type substituteCmd struct {
	Path string `arg:"" help:"The store path. Nothing else need be known of it."`
	Expr string `arg:"" help:"The store expression, or FILE.star:TARGET."`
	argFlags
}

func (*substituteCmd) Help() string {
	return `Registers a store expression whose realisation makes PATH valid. To realise a path, its substitutes are tried, the one that was registered last first.`
}

func (c *substituteCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "substitute", repeat: true}, func(client *daemon.Client) error {
		paths, err := storePaths(client, []string{c.Path})
		if err != nil {
			return err
		}
		if below, err := filepath.Abs(c.Path); err != nil || store.Path(below) != paths[0] {
			return badInputf("substitute: %s is not a store path, but below one", c.Path)
		}
		exprs, err := a.installables(ctx, client, []string{c.Expr}, c.argFlags)
		if err != nil {
			return err
		}
		if len(exprs) != 1 || !exprs[0].target.IsExpr() {
			return badInputf("substitute: %s is not one store expression", c.Expr)
		}
		if err := client.AddSubstitute(ctx, paths[0], exprs[0].target); err != nil {
			return err
		}
		return a.print(map[string]store.Path{"path": paths[0], "expr": exprs[0].target}, func(w io.Writer) {
			fmt.Fprintln(w, exprs[0].target)
		})
	})
}
