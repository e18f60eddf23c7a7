package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"storefs/nar"
)

type restoreCmd struct {
	Path string `arg:"" help:"What to make. It must not exist."`
}

func (*restoreCmd) Help() string {
	return `Makes a file, directory or link of the Nix archive (NAR) on standard input, all of it or nothing.`
}

func (c *restoreCmd) Run(ctx context.Context, a *app) error {
	if term.IsTerminal(int(a.stdin.Fd())) {
		return badInput(errors.New("restore: standard input is a terminal"))
	}
	_, err := await(ctx, func() (os.FileInfo, error) { return os.Lstat(c.Path) })
	if err == nil {
		return fmt.Errorf("restore %s: it exists already", c.Path)
	}
	if ctx.Err() != nil {
		return err
	}
	return unread(nar.Restore(bufio.NewReaderSize(&flow{ctx: ctx, file: a.stdin}, 64<<10), c.Path, nar.RestoreOptions{}))
}
