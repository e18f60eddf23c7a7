// Package nar reads and writes Nix archives: a file, a link or a tree as one
// deterministic stream of bytes. It brings the outputs of builds into canonical
// form, hashing and scanning them in the same read (Ingest); it restores
// archives from anywhere, trusting nothing in them (Restore); and it cuts and
// makes the streams of `nix-store --export`. It does not know where store
// objects live, nor what is registered.
//
// The format is that of figure 5.2 of Dolstra's thesis: strings with a length
// of eight bytes, little-endian, padded with zeros to a multiple of eight.
// Names and link targets are bytes of any encoding.
package nar

import (
	"crypto/sha256"
	"fmt"

	"storefs/store"
)

const magic = "nix-archive-1"

// MaxDepth is how many directories may lie in one another. Linux itself has no
// limit, but paths of twice this number of bytes cannot be named any more.
const MaxDepth = 4096

const (
	maxName   = 255  // NAME_MAX
	maxTarget = 4095 // PATH_MAX without its NUL
)

// Summary is what one read of a store object tells of it.
type Summary struct {
	Kind       store.Kind
	Hash       store.Hash   // SHA-256 of the NAR
	Size       int64        // bytes of the NAR
	References []store.Path // those candidates that occur in it, sorted
}

// FileFunc gets each file and link inside a directory: its path from there, and
// the SHA-256 of its contents or of its target. It is called from several
// goroutines at once, in no order.
type FileFunc func(path string, kind store.Kind, sum [sha256.Size]byte)

// insideError puts the path inside an object in front of an error; "" is the
// object itself.
func insideError(path string, err error) error {
	if path == "" || err == nil {
		return err
	}
	return fmt.Errorf("%q: %w", path, err)
}

func unfit(what string) error { return fmt.Errorf("%s: %w", what, store.ErrUnfit) }

var errChanged = unfit("it changed while it was read")
