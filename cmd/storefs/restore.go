package main

import (
	"bufio"
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
	return `Makes a file, directory or link of the Nix archive (NAR) on standard input.`
}

func (c *restoreCmd) Run(a *app) error {
	if term.IsTerminal(int(a.stdin.Fd())) {
		return badInput(errors.New("restore: standard input is a terminal"))
	}
	if _, err := os.Lstat(c.Path); err == nil {
		return fmt.Errorf("restore %s: it exists already", c.Path)
	}
	return nar.Restore(bufio.NewReaderSize(a.stdin, 64<<10), c.Path, nar.RestoreOptions{})
}
