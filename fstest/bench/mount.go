package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// mount: everything realised and warm, beside the same files on the backing
// file system.
func (b *bench) mount() error {
	l, err := b.newLab("mount")
	if err != nil {
		return err
	}
	tree := filepath.Join(b.dir, "tree")
	for d := range 100 {
		dir := fmt.Sprintf("%s/d%d", tree, d)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range 100 {
			if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, f), fmt.Appendf(nil, "file %d of %d\n", f, d), 0o644); err != nil {
				return err
			}
		}
	}
	big := make([]byte, 256<<20)
	if err := os.WriteFile(tree+"/big", big, 0o644); err != nil {
		return err
	}
	if err := do("/", nil, "cp", b.storefs, tree+"/prog"); err != nil {
		return err
	}
	path, err := l.output("add", tree)
	if err != nil {
		return err
	}
	if err := l.mount(); err != nil {
		return err
	}
	defer l.unmount()
	real := filepath.Join(l.state, "real", filepath.Base(path))
	for _, row := range []struct {
		work string
		argv func(root string) []string
	}{
		{"find, 10,000 files", func(r string) []string { return []string{"find", r, "-size", "+1000000"} }},
		{"ls -lR, 10,000 files", func(r string) []string { return []string{"ls", "-lR", r} }},
		{"tar, 10,000 small files", func(r string) []string { return []string{"tar", "cf", "/dev/null", "--exclude=big", "-C", r, "."} }},
		{"read 256 MiB", func(r string) []string {
			return []string{"dd", "if=" + r + "/big", "of=/dev/null", "bs=128k", "status=none"}
		}},
		{"exec a program 100 times", func(r string) []string {
			return []string{"sh", "-c", "for i in $(seq 100); do " + r + "/prog version >/dev/null; done"}
		}},
	} {
		if err := b.measure(pair{
			work: "mount, warm: " + row.work, peer: "backing file system",
			ours:   func() error { return do("/", nil, row.argv(path)...) },
			theirs: func() error { return do("/", nil, row.argv(real)...) },
		}, b.runs); err != nil {
			return err
		}
	}
	return nil
}
