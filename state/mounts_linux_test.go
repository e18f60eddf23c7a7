package state

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Nothing can be renamed from one mount of a file system to another one, and that is said
// before anything is built.
func TestRealOnAnotherMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := Init(dir, testStore); err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(dir, "real")
	if err := unix.Mount(real, real, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(real, unix.MNT_DETACH) })
	s, err := Open(dir, Options{})
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "hashes is on another mount than real") {
		t.Errorf("got %v", err)
	}
}
