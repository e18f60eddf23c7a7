package fstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk that is full keeps nobody from asking, and from making room.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test mounts a small file system, as root")
	}
	l := newLab(t)
	small := l.Dir + "/small"
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=6m"); err != nil {
		missing(t, "a tmpfs cannot be mounted: "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	l.env = append(l.env, "STOREFS_STATE="+small+"/state")
	l.ok("init", "--store", l.Store)
	p := l.ok("add", l.write("f", "content"))[0]
	if err := os.WriteFile(small+"/filler", make([]byte, 6<<20), 0o644); err == nil {
		t.Fatal("the disk is not full")
	}
	l.ok("query", "info", p)
	l.write("store/in-the-way", "")
	l.fails(1, []string{"mount: it ended at once, and its last words are lost: ", small + "/state/daemon.log: no space left"}, "mount", "--background")
	l.ok("delete", p)
}

// On a Btrfs that is full nothing can be moved, nor an attribute removed that is not there;
// and what the database writes needs new room, unless its files are written in place.
func TestFullBtrfs(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test mounts a small file system, as root")
	}
	mkfs, chattr := need(t, "mkfs.btrfs"), need(t, "chattr")
	l := newLab(t)
	small, image := l.Dir+"/small", l.write("image", "")
	if err := errors.Join(os.Mkdir(small, 0o755), os.Truncate(image, 120<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-f", "--mixed", image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, small).CombinedOutput(); err != nil {
		t.Skipf("a Btrfs cannot be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	state := small + "/state"
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(chattr, "+C", state).CombinedOutput(); err != nil {
		t.Fatalf("chattr: %v: %s", err, out)
	}
	l.env = append(l.env, "STOREFS_STATE="+state)
	l.ok("init", "--store", l.Store)
	// Deeper than what is removed with an open file for each level.
	deep := l.Dir + "/deep"
	if err := os.MkdirAll(deep+strings.Repeat("/n", 70), 0o755); err != nil {
		t.Fatal(err)
	}
	paths := l.ok("add", l.Dir+"/tools", deep)
	for _, size := range []int{1 << 20, 512, 512, 1} {
		fill(t, small, size)
	}
	l.ok("status")
	for _, p := range slices.Backward(paths) {
		l.ok("delete", p)
		if _, err := os.Stat(state + "/real/" + filepath.Base(p)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is there: %v", err)
		}
	}
}

// fill makes files in dir, one beside the other, until none of so many bytes can be made.
func fill(t *testing.T, dir string, size int) {
	t.Helper()
	for i := range 100_000 {
		if err := os.WriteFile(fmt.Sprintf("%s/filler-%d-%d", dir, size, i), make([]byte, size), 0o644); err != nil {
			break
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_ = unix.Syncfs(int(d.Fd())) // which may make some
}
