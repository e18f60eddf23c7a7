package builder

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"storefs/tree"
)

// keptPrefix begins the names of scratch directories that were kept.
const keptPrefix = "kept-"

// makeScratch makes the scratch directory: build (the builder's working
// directory), tmp, store (its store directory, where it puts the outputs) and
// root (where the child mounts the builder's root). It is closed to other users,
// whatever the builder makes in it: the child binds from it before it becomes
// the builder.
func (b *build) makeScratch() error {
	dir, err := os.MkdirTemp(b.opts.Builds, b.job.Drv.Digest()+"-")
	if err != nil {
		return err
	}
	b.scratch = dir
	for _, d := range []struct {
		name  string
		mode  uint32
		owner bool // the builder's
	}{
		{"build", 0o700, true},
		{"root", 0o700, false},
		// As in Nix, the store is not the builder's own, but it may add to it.
		{"store", 0o1775, false},
		{"tmp", 0o1777, false},
	} {
		p := filepath.Join(dir, d.name)
		if err := os.Mkdir(p, 0o700); err != nil {
			return err
		}
		if d.owner {
			err = b.ids.give(p)
		} else if d.name == "store" && b.ids.uid != os.Geteuid() {
			err = os.Lchown(p, os.Geteuid(), b.ids.gid)
		}
		if err == nil && d.mode != 0o700 {
			err = unix.Chmod(p, d.mode)
		}
		if err != nil {
			return fmt.Errorf("make scratch directory %s: %w", p, err)
		}
	}
	return nil
}

// discard removes the scratch directory, if there is one. What cannot be removed
// is left to whoever opens the state directory next.
func (b *build) discard() {
	if b.scratch == "" {
		return
	}
	_ = tree.RemoveAll(b.scratch)
}

// keep leaves the scratch directory of a failed build for its user to look at,
// under a name that says so.
func (b *build) keep() (string, error) {
	kept := filepath.Join(b.opts.Builds, keptPrefix+filepath.Base(b.scratch))
	if err := os.Rename(b.scratch, kept); err != nil {
		return "", err
	}
	if b.ids.uid == os.Geteuid() {
		return kept, nil
	}
	return kept, filepath.WalkDir(kept, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, os.Geteuid(), os.Getegid())
	})
}
