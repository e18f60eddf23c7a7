package fstest

import (
	"os"
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
