package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A profile for which there is no room leaves what was there before, or nothing.
func TestProfileOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the small file system that this needs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	name := filepath.Join(dir, "trace.json")
	fill := func(size int) error {
		p, err := openProfile(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		err = p.write(func(w io.Writer) error {
			_, err := w.Write(bytes.Repeat([]byte{'x'}, size))
			return err
		})
		return errors.Join(err, p.close())
	}
	if err := fill(1 << 20); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a megabyte on 64 kB: %v", err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half of a new profile is left: %v", err)
	}
	for _, step := range []struct {
		size, left int
		full       bool
	}{{20_000, 20_000, false}, {1 << 20, 20_000, true}, {10_000, 10_000, false}} {
		err := fill(step.size)
		if errors.Is(err, unix.ENOSPC) != step.full || err != nil && !step.full {
			t.Errorf("%d bytes: %v", step.size, err)
		}
		if info, err := os.Stat(name); err != nil || info.Size() != int64(step.left) {
			t.Errorf("after %d bytes: %v, %v", step.size, info, err)
		}
	}
}
