package main

import (
	"context"
	"fmt"
	"io"

	"storefs/nar"
	"storefs/store"
)

type hashCmd struct {
	Paths  []string   `arg:"" name:"path" help:"Files, directories or links, in the store or anywhere."`
	Type   store.Algo `enum:"md5,sha1,sha256,sha512" default:"sha256" help:"The algorithm: ${enum}. [${default}]"`
	Flat   bool       `help:"Hash the content of a file, not its archive."`
	Base16 bool       `name:"base16" xor:"form" help:"Print the digest alone, in hexadecimal."`
	Base32 bool       `name:"base32" xor:"form" help:"Print the digest alone, in nixbase32."`
	SRI    bool       `name:"sri" xor:"form" help:"Print ALGORITHM-BASE64."`
}

func (*hashCmd) Help() string {
	return `Prints the hash of each path's Nix archive (NAR), as "storefs query info" shows it: ALGORITHM:NIXBASE32.`
}

func (c *hashCmd) Run(ctx context.Context, a *app) error {
	type result struct {
		Path string     `json:"path"`
		Hash store.Hash `json:"hash"`
	}
	var all []result
	for _, p := range c.Paths {
		err := a.onDisk(ctx, p, func(name string) error {
			h, err := nar.HashAs(ctx, name, c.Type, !c.Flat)
			all = append(all, result{p, h})
			return fileError(err)
		})
		if err != nil {
			return err
		}
	}
	return a.print(all, func(w io.Writer) {
		for _, r := range all {
			fmt.Fprintln(w, c.form(r.Hash))
		}
	})
}

func (c *hashCmd) form(h store.Hash) string {
	switch {
	case c.Base16:
		return h.Base16()
	case c.Base32:
		return h.Base32()
	case c.SRI:
		return h.SRI()
	}
	return h.String()
}
