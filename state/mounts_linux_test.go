package state

import (
	"os/exec"
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

// A file system whose files do not get the form of store objects is refused at once.
func TestFileSystemWithoutForm(t *testing.T) {
	bindfs, err := exec.LookPath("bindfs")
	if err != nil {
		t.Skip("bindfs is not installed")
	}
	dir, at := t.TempDir(), t.TempDir()
	if out, err := exec.Command(bindfs, "--chmod-ignore", dir, at).CombinedOutput(); err != nil {
		t.Skipf("bindfs: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	err = Init(filepath.Join(at, "state"), testStore)
	if err == nil || !strings.Contains(err.Error(), "of a new one, its mode is 0600, not 0444") {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(dir + "/state/real/.*"); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}
