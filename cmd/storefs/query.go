package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"storefs/daemon"
	"storefs/store"
)

// queryCmd is a command for each question.
type queryCmd struct {
	Outputs      outputsCmd      `cmd:"" help:"The outputs of derivations, realised or not; the roots of closures."`
	Info         infoCmd         `cmd:"" help:"What is registered of valid paths: hash, size, references, deriver."`
	References   referencesCmd   `cmd:"" help:"What valid paths refer to."`
	Referrers    referrersCmd    `cmd:"" help:"What refers to valid paths."`
	Requisites   requisitesCmd   `cmd:"" help:"Valid paths and all that they need."`
	Successor    successorCmd    `cmd:"" help:"The closures that derivations were normalised to."`
	Predecessors predecessorsCmd `cmd:"" help:"The derivations that were normalised to closures."`
	Deriver      deriverCmd      `cmd:"" help:"The known derivations that make paths."`
	Roots        rootsCmd        `cmd:"" help:"The links in STATE/roots that keep these paths, or any at all, from being deleted."`
	Substitutes  substitutesCmd  `cmd:"" help:"The expressions that can yield paths, newest first."`
}

// questionArgs are what a question is about.
type questionArgs struct {
	Paths []string `arg:"" name:"path" help:"Store paths, or paths below one; FILE.star[:TARGET]; .drv and .store files."`
	argFlags
}

type (
	outputsCmd      struct{ questionArgs }
	referencesCmd   struct{ questionArgs }
	referrersCmd    struct{ questionArgs }
	requisitesCmd   struct{ questionArgs }
	successorCmd    struct{ questionArgs }
	predecessorsCmd struct{ questionArgs }
	deriverCmd      struct{ questionArgs }
	substitutesCmd  struct{ questionArgs }
)

// Of an expression in a Starlark file, the first questions mean the expression
// and the others what it makes.

func (c *outputsCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Outputs, aboutExpr)
}

func (c *successorCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Successor, aboutExpr)
}

func (c *predecessorsCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Predecessors, aboutExpr)
}

func (c *referencesCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.References, installable.named)
}

func (c *referrersCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Referrers, installable.named)
}

func (c *requisitesCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Requisites, installable.named)
}

func (c *deriverCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Deriver, installable.named)
}

func (c *substitutesCmd) Run(ctx context.Context, a *app) error {
	return c.ask(ctx, a, daemon.Substitutes, installable.named)
}

func aboutExpr(i installable) store.Path { return i.target }

// about calls f with the paths that the arguments mean.
func (q questionArgs) about(ctx context.Context, a *app, mean func(installable) store.Path, f func(*daemon.Client, []store.Path) error) error {
	return a.connect(ctx, ownerOptions{role: "query", repeat: true}, func(client *daemon.Client) error {
		all, err := a.installables(ctx, client, q.Paths, q.argFlags)
		if err != nil {
			return err
		}
		paths := make([]store.Path, len(all))
		for i := range all {
			paths[i] = mean(all[i])
		}
		return f(client, paths)
	})
}

// ask prints the answers of all paths, each once.
func (q questionArgs) ask(ctx context.Context, a *app, rel daemon.Relation, mean func(installable) store.Path) error {
	return q.about(ctx, a, mean, func(client *daemon.Client, paths []store.Path) error {
		var all []store.Path
		for _, p := range paths {
			if (rel == daemon.Outputs || rel == daemon.Successor) && !p.IsExpr() {
				return badInputf("query %s: it is no store expression", p)
			}
			related, err := client.Related(ctx, rel, p)
			if err != nil {
				return err
			}
			if rel == daemon.Successor && len(related) == 0 {
				return fmt.Errorf("query %s: it has no successor: %w", p, store.ErrNotValid)
			}
			all = append(all, related...)
		}
		return printLines(a, unique(all))
	})
}

type infoCmd struct{ questionArgs }

func (c *infoCmd) Run(ctx context.Context, a *app) error {
	return c.about(ctx, a, installable.named, func(client *daemon.Client, paths []store.Path) error {
		infos := make([]store.Info, 0, len(paths))
		for _, p := range paths {
			i, err := client.Info(ctx, p)
			if err != nil {
				return err
			}
			infos = append(infos, i)
		}
		return a.print(infos, func(w io.Writer) {
			for n, i := range infos {
				if n > 0 {
					fmt.Fprintln(w)
				}
				printInfo(w, i)
			}
		})
	})
}

func printInfo(w io.Writer, i store.Info) {
	refs := make([]string, len(i.References))
	for n, r := range i.References {
		refs[n] = r.Base()
	}
	fmt.Fprintf(w, "path: %s\n", i.Path)
	fmt.Fprintf(w, "kind: %s\n", i.Kind)
	fmt.Fprintf(w, "nar-hash: %s\n", i.NarHash)
	fmt.Fprintf(w, "nar-size: %d\n", i.NarSize)
	fmt.Fprintf(w, "references: %s\n", strings.Join(refs, " "))
	if i.Deriver != "" {
		fmt.Fprintf(w, "deriver: %s\n", i.Deriver)
	}
	if i.CA != "" {
		fmt.Fprintf(w, "ca: %s\n", i.CA)
	}
	if i.Registered != 0 {
		fmt.Fprintf(w, "registered: %s\n", i.RegisteredAt().UTC().Format("2006-01-02T15:04:05Z"))
	}
}

type rootsCmd struct {
	Paths []string `arg:"" optional:"" name:"path" help:"Store paths. Without any: all roots."`
}

func (c *rootsCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "query", repeat: true}, func(client *daemon.Client) error {
		paths, err := storePaths(client, c.Paths)
		if err != nil {
			return err
		}
		if len(c.Paths) == 0 {
			paths = []store.Path{""}
		}
		var all []store.Path
		for _, p := range paths {
			links, err := client.Related(ctx, daemon.Roots, p)
			if err != nil {
				return err
			}
			all = append(all, links...)
		}
		return printLines(a, unique(all))
	})
}
