package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// A full disk is one clear error, at whatever comes first, and does no harm.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the small file system that this needs")
	}
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	state := filepath.Join(dir, "state")
	if err := Init(state, testStore); err != nil {
		t.Fatal(err)
	}
	s := openState(t, state)
	ctx := context.Background()
	kept := must(s.AddText(ctx, "kept", []byte("kept"), nil))(t)
	big := archive(t, true, strings.Repeat("x", 8<<20))
	if _, err := s.AddNAR(ctx, "big", true, store.SHA256, bytes.NewReader(big)); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("got %v, want ErrNoSpace", err)
	}
	// Small things, until the files or the database do not fit any more.
	var err error
	for i := 0; err == nil; i++ {
		_, err = s.AddText(ctx, fmt.Sprint("t", i), bytes.Repeat([]byte{byte(i)}, i*100), nil)
	}
	if !errors.Is(err, store.ErrNoSpace) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v, want ErrNoSpace in one line", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 4<<20), 0o644); err == nil {
		t.Fatal("the disk is not full")
	}
	if _, _, err := s.DB().Successor(kept.Path); err != nil {
		t.Errorf("reading: %v", err)
	}
	// With room again, all is well.
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	var paths []store.Path
	for _, p := range allPaths(t, s) {
		if p != kept.Path {
			paths = append(paths, p)
		}
	}
	if _, err := s.Delete(ctx, paths[:len(paths)/2]...); err != nil && !errors.Is(err, store.ErrNoSpace) {
		t.Fatal(err)
	}
	verified(t, s)
}
