package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/emicklei/dot"

	"storefs/daemon"
	"storefs/progress"
	"storefs/store"
)

type graphCmd struct {
	Paths   []string `arg:"" name:"path" help:"Valid paths: their references. Store expressions or FILE.star:TARGET: the derivations that they need."`
	Mermaid bool     `help:"In the language of Mermaid, instead of DOT."`
	argFlags
}

func (*graphCmd) Help() string {
	return `Prints who needs whom, in the language of Graphviz (DOT). Filled nodes are realised:

  storefs graph hello.star | dot -Tsvg > hello.svg`
}

func (c *graphCmd) Run(ctx context.Context, a *app) error {
	return a.connect(ctx, ownerOptions{role: "graph", repeat: true}, func(client *daemon.Client) error {
		all, err := a.installables(ctx, client, c.Paths, c.argFlags)
		if err != nil {
			return err
		}
		var exprs, paths []store.Path
		for _, i := range all {
			expr, err := isExpr(ctx, client, i.target)
			if err != nil {
				return err
			}
			if expr {
				exprs = append(exprs, i.target)
			} else {
				paths = append(paths, i.target)
			}
		}
		if len(exprs) > 0 && len(paths) > 0 {
			return badInputf("graph: %s is an expression and %s is not: one graph at a time", exprs[0], paths[0])
		}
		g, err := client.Graph(ctx, append(exprs, paths...), len(exprs) > 0)
		if err != nil {
			return err
		}
		return a.print(g, func(w io.Writer) {
			d := draw(g)
			if c.Mermaid {
				fmt.Fprintln(w, dot.MermaidGraph(d, dot.MermaidTopDown))
			} else {
				fmt.Fprintln(w, d.String())
			}
		})
	})
}

// isExpr tells a store expression from an output or a source that is called like one of
// 2004.
func isExpr(ctx context.Context, client *daemon.Client, p store.Path) (bool, error) {
	if p.IsDerivation() || !p.IsExpr() {
		return p.IsDerivation(), nil
	}
	derivers, err := client.Related(ctx, daemon.Deriver, p)
	if err != nil || len(derivers) > 0 {
		return false, err
	}
	_, err = client.Expr(ctx, p)
	if errors.Is(err, store.ErrBadExpr) {
		return false, nil
	}
	return err == nil, err
}

func draw(g daemon.Graph) *dot.Graph {
	d := dot.NewGraph(dot.Directed)
	for _, n := range g.Nodes {
		node := d.Node(string(n.Path)).Label(progress.Name(n.Path))
		if n.Realised {
			node.Attr("style", "filled")
		}
		for _, need := range n.Needs {
			d.Edge(node, d.Node(string(need)))
		}
	}
	return d
}
