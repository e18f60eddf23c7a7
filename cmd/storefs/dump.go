package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"storefs/daemon"
	"storefs/nar"
)

type dumpCmd struct {
	Path string `arg:"" help:"A file, directory or link, in the store or anywhere."`
}

func (*dumpCmd) Help() string {
	return `Writes the path to standard output as a Nix archive (NAR).`
}

func (c *dumpCmd) Run(ctx context.Context, a *app) error {
	if term.IsTerminal(int(a.stdout.Fd())) {
		return badInput(errors.New("dump: standard output is a terminal"))
	}
	return a.onDisk(ctx, c.Path, func(name string) error {
		w := bufio.NewWriterSize(&flow{ctx: ctx, file: a.stdout}, 64<<10)
		if err := nar.Dump(w, name); err != nil {
			return fileError(err)
		}
		return w.Flush()
	})
}

// onDisk calls f with the name under which a file can be read. What is in the
// store can be read also while the store is not mounted: where it really is.
func (a *app) onDisk(ctx context.Context, name string, f func(string) error) error {
	abs, err := filepath.Abs(name)
	if err != nil {
		return badInput(err)
	}
	_, err = await(ctx, func() (os.FileInfo, error) { return os.Lstat(abs) })
	if ctx.Err() != nil {
		return err
	}
	if !errors.Is(err, os.ErrNotExist) {
		return f(abs)
	}
	err = a.findState()
	if err == nil {
		_, err = os.Stat(filepath.Join(a.State, "config.json"))
	}
	if err != nil {
		return f(abs) // no store: it tells that the file is missing
	}
	return a.connect(ctx, ownerOptions{role: "dump"}, func(client *daemon.Client) error {
		h := client.Hello()
		if !strings.HasPrefix(abs, string(h.Store)+"/") {
			return f(abs)
		}
		p, below, err := h.Store.Split(abs)
		if err != nil {
			return badInput(err)
		}
		if _, err := client.Info(ctx, p); err != nil {
			return err
		}
		return f(filepath.Join(h.State, "real", p.Base(), below))
	})
}
