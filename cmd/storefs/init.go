package main

import (
	"fmt"
	"io"
	"os"

	"storefs/builder"
	"storefs/state"
	"storefs/store"
)

type initCmd struct {
	Store string `required:"" env:"STOREFS_STORE" placeholder:"DIR" help:"The store directory: where the store is mounted, and what is hashed into all names (/nix/store to share them with Nix). It cannot be changed later."`
}

func (*initCmd) Help() string {
	return `Makes the directory that --state names a state directory. It must not exist, or be empty, and belong to whoever runs this, or to root. The store directory need not exist before it is mounted.`
}

func (c *initCmd) Run(a *app) error {
	dir, err := store.ParseDir(c.Store)
	if err != nil {
		return badInput(err)
	}
	if err := builder.CheckStore(dir); err != nil {
		return badInput(fmt.Errorf("init: %w", err))
	}
	// It may be missing, or the remains of a mount, which cannot be looked at.
	if st, err := os.Stat(c.Store); err == nil && !st.IsDir() {
		return badInputf("init: the store directory %s: not a directory", c.Store)
	}
	if err := a.findState(); err != nil {
		return err
	}
	if err := state.Init(a.State, dir); err != nil {
		return err
	}
	return a.print(map[string]string{"state": a.State, "store": c.Store}, func(w io.Writer) {
		fmt.Fprintln(w, a.State)
	})
}
