package tree

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
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
	makeDeep(t, dir, 2000) // deeper than a path may be long
	for range 2 {          // nothing to remove is as good
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

// makeDeep makes levels directories in each other, in dir.
func makeDeep(t *testing.T, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
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
}

// plain is a file system whose renames have no flags.
type plain struct{ *fs.LoopbackNode }

func (p *plain) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags != 0 {
		return syscall.EINVAL
	}
	return p.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

func (p *plain) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &plain{child.(*fs.LoopbackNode)}
}

func TestRemoveAllWithPlainRenames(t *testing.T) {
	mount, real := t.TempDir(), t.TempDir()
	data := &fs.LoopbackRoot{Path: real}
	root := &plain{&fs.LoopbackNode{RootData: data}}
	data.RootNode = root
	server, err := fs.Mount(mount, root, &fs.Options{})
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	defer func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	dir := filepath.Join(mount, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	makeDeep(t, dir, 3*maxOpenDirs)
	if err := RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(mount); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
