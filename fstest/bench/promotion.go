package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// promotion: what it would be worth to bind the backing directory of hot outputs
// over their names in the mount, so that there is no FUSE below them, and what
// it would cost: the binding itself, and every mount namespace that is made
// while they are bound.
func (b *bench) promotion() error {
	const objects, files = 200, 25
	l, err := b.newLab("promotion")
	if err != nil {
		return err
	}
	var names []string
	for i := range objects {
		src := filepath.Join(b.dir, "promotion-sources", fmt.Sprintf("object-%03d", i))
		if err := os.MkdirAll(src, 0o755); err != nil {
			return err
		}
		for k := range files {
			if err := os.WriteFile(fmt.Sprintf("%s/file-%02d", src, k), fmt.Appendf(nil, "%d %d\n", i, k), 0o644); err != nil {
				return err
			}
		}
		out, err := l.output("add", src)
		if err != nil {
			return err
		}
		names = append(names, filepath.Base(out))
	}
	if err := l.mount(); err != nil {
		return err
	}
	defer l.unmount()
	real := filepath.Join(l.state, "real")
	bound := false
	demote := func() {
		for i := len(names) - 1; bound && i >= 0; i-- {
			unix.Unmount(l.store+"/"+names[i], unix.MNT_DETACH)
		}
		bound = false
	}
	defer demote()
	promote := func() error {
		if bound {
			return nil
		}
		bound = true
		for _, n := range names {
			if err := unix.Mount(real+"/"+n, l.store+"/"+n, "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
		return nil
	}
	walk := func() error {
		for _, n := range names {
			err := filepath.WalkDir(l.store+"/"+n, func(_ string, d fs.DirEntry, err error) error {
				if err == nil {
					_, err = d.Info()
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	namespace := func() error { return do("/", nil, "unshare", "-m", "true") }
	cold := func() error {
		if err := dropCaches("2"); err != nil {
			return err
		}
		return readAll(real)
	}
	for _, p := range []pair{
		{
			work: "walk promoted objects, warm", peer: "through FUSE", each: objects,
			before: func() error { return join(promote, walk) }, ours: walk,
			beforePeer: func() error { demote(); return walk() }, theirs: walk,
		},
		{
			work: "walk promoted objects, FUSE cold", peer: "through FUSE", each: objects,
			before: func() error { return join(promote, cold) }, ours: walk,
			beforePeer: func() error { demote(); return cold() }, theirs: walk,
		},
		{
			work: fmt.Sprintf("a mount namespace, %d promoted", objects), peer: "none promoted",
			before: promote, ours: namespace, beforePeer: func() error { demote(); return nil }, theirs: namespace,
		},
	} {
		if err := b.measure(p, b.runs); err != nil {
			return err
		}
	}
	demote()
	start := time.Now()
	err = promote()
	took := time.Since(start)
	start = time.Now()
	demote()
	fmt.Printf("one promotion: %v, and to undo it: %v\n", (took / objects).Round(100*time.Nanosecond), (time.Since(start) / objects).Round(100*time.Nanosecond))
	if err != nil {
		return err
	}
	// A promoted object is another file: whoever has seen it before does not
	// recognise it, and what stays on one device does not enter it.
	if err := promote(); err != nil {
		return err
	}
	seen, err := exec.Command("find", l.store, "-xdev", "-type", "f").Output()
	if err != nil {
		return err
	}
	fmt.Printf("find -xdev sees %d of %d files in promoted objects\n", bytes.Count(seen, []byte("/file-")), objects*files)
	return nil
}

func join(fs ...func() error) error {
	for _, f := range fs {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}
