package main

import (
	"fmt"
	"io"

	"storefs/state"
	"storefs/store"
)

type initCmd struct {
	Store string `required:"" env:"STOREFS_STORE" placeholder:"DIR" help:"The store directory: where the store is mounted, and what is hashed into all names (/nix/store to share them with Nix). It cannot be changed later."`
}

func (*initCmd) Help() string {
	return `Makes the directory that --state names a state directory. It must not exist, or be empty. The store directory need not exist before it is mounted.`
}

func (c *initCmd) Run(a *app) error {
	dir, err := store.ParseDir(c.Store)
	if err != nil {
		return badInput(err)
	}
	if err := state.Init(a.State, dir); err != nil {
		return err
	}
	return a.print(map[string]string{"state": a.State, "store": c.Store}, func(w io.Writer) {
		fmt.Fprintln(w, a.State)
	})
}
