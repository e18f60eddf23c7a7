package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"
)

// lossy is a file system that cannot bring to the disk what was written to a file.
type lossy struct{ *fs.LoopbackNode }

func (*lossy) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return syscall.EIO }

func (*lossy) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &lossy{child.(*fs.LoopbackNode)}
}

// A file stays what it was unless what comes in its place is on the disk.
func TestReplaceFileThatIsNotOnDisk(t *testing.T) {
	data := &fs.LoopbackRoot{Path: t.TempDir()}
	root := &lossy{&fs.LoopbackNode{RootData: data}}
	data.RootNode = root
	dir := t.TempDir()
	server, err := fs.Mount(dir, root, &fs.Options{})
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	name := filepath.Join(dir, "a.star")
	if err := os.WriteFile(name, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(name, []byte("after")); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v, want that it could not be brought to the disk", err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "before" {
		t.Errorf("the file is %q, %v", got, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What root formats stays its user's.
func TestReplaceFileOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, whose files are not all its own")
	}
	name := filepath.Join(t.TempDir(), "a.star")
	if err := errors.Join(os.WriteFile(name, []byte("before"), 0o640), os.Chown(name, 65534, 65533)); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(name, []byte("after")); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Uid != 65534 || st.Gid != 65533 || st.Mode != unix.S_IFREG|0o640 {
		t.Errorf("uid %d, gid %d, mode %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
}
