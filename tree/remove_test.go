package tree

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What an ordinary user may not simply remove is tested where store objects
// are: package state.
func TestRemoveAll(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	dir := filepath.Join(top, "tree")
	for _, err := range []error{
		os.WriteFile(outside, nil, 0o644),
		os.MkdirAll(dir+"/ro/inner", 0o755),
		os.WriteFile(dir+"/ro/inner/file", nil, 0o444),
		os.Symlink(outside, dir+"/ro/link"),
		os.Chmod(dir+"/ro/inner", 0),
		os.Chmod(dir+"/ro", 0o555),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Deeper than a path may be long.
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if err := unix.Mkdirat(fd, "deep", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "deep", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	for range 2 { // nothing to remove is as good
		if err := RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(top)
	if err != nil || len(left) != 1 || left[0].Name() != "outside" {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := RemoveAll(outside); err != nil {
		t.Error(err)
	}
	if err := RemoveAll(filepath.Join(top, "no", "where")); err != nil {
		t.Error(err)
	}
}
