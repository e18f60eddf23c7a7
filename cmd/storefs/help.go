package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"Of which command. Without it: the list of all."`
}

func (c *helpCmd) Run(ctx context.Context, a *app) error {
	return a.run(ctx, append(slices.Clone(c.Command), "--help"))
}

// printHelp is kong's, whose first line says that there are flags only if the
// command or the one above it has some of its own.
func printHelp(o kong.HelpOptions, ctx *kong.Context) error {
	usage := ctx.Model.Summary()
	if c := ctx.Selected(); c != nil {
		usage = " " + c.Summary()
	}
	if !strings.HasSuffix(usage, " [flags]") {
		usage += " [flags]"
	}
	if _, err := fmt.Fprintf(ctx.Stdout, "Usage: %s%s\n", ctx.Model.Name, usage); err != nil {
		return err
	}
	o.NoAppSummary = true
	return kong.DefaultHelpPrinter(o, ctx)
}

// usageError says where the commands are listed if what is wrong is that none was
// named.
func usageError(err error) error {
	var parse *kong.ParseError
	if !errors.As(err, &parse) || parse.Context == nil {
		return err
	}
	// kong names the separator of pairs, which --arg does not have.
	if text := err.Error(); strings.Contains(text, "\uFFFD") {
		return errors.New(strings.ReplaceAll(text, "\uFFFD...", ""))
	}
	node := parse.Context.Selected()
	if node == nil {
		node = parse.Context.Model.Node
	}
	if len(node.Children) == 0 {
		return err
	}
	list := node.FullPath() + " --help lists them"
	rest := parse.Context.Path[len(parse.Context.Path)-1].Remainder()
	if len(rest) == 0 {
		return fmt.Errorf("%w; %s", err, list)
	}
	name := rest[0]
	if strings.HasPrefix(name, "-") {
		return err // a flag
	}
	// What kong takes it for it may have meant.
	meant := strings.TrimPrefix(err.Error(), "unexpected argument "+name)
	if meant == err.Error() || meant == "" {
		return fmt.Errorf("unknown command %s; %s", name, list)
	}
	return fmt.Errorf("unknown command %s%s (%s)", name, meant, list)
}
