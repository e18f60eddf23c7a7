package nar

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"
)

// late is a file system that, as NFS may, says only of the close of a file that there was no
// quota for what was written to it: of a file with that name.
type late struct{ *fs.LoopbackNode }

func (l *late) Flush(context.Context, fs.FileHandle) syscall.Errno {
	if filepath.Base(l.Path(nil)) == "late" {
		return syscall.EDQUOT
	}
	return 0
}

func (l *late) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &late{child.(*fs.LoopbackNode)}
}

// lateDir is an empty directory on one.
func lateDir(t *testing.T) string {
	t.Helper()
	data := &fs.LoopbackRoot{Path: t.TempDir()}
	root := &late{&fs.LoopbackNode{RootData: data}}
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
	return dir
}

// What is known only when a file is closed fails the whole as well, and nothing is left:
// of a file that is the object, of a small one in it, and of one that is too large to be
// written aside.
func TestRestoreLateError(t *testing.T) {
	dir := lateDir(t)
	large := strings.Repeat("large ", maxAside/6+1)
	for _, c := range []struct {
		what, dest string
		object     node
	}{
		{"the object", "late", file("content")},
		{"a small file", "object", folder(map[string]node{"late": file("content")})},
		{"a large file", "object", folder(map[string]node{"late": file(large)})},
	} {
		archive := dump(t, inTemp(t, c.object))
		err := Restore(bytes.NewReader(archive), filepath.Join(dir, c.dest), RestoreOptions{})
		if !errors.Is(err, unix.EDQUOT) {
			t.Errorf("%s: got %v, want that there is no quota", c.what, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left: %v, %v", c.what, left, err)
		}
	}
	// What is not late is restored there.
	archive := dump(t, inTemp(t, folder(map[string]node{"f": file("content"), "g": file(large)})))
	if err := Restore(bytes.NewReader(archive), filepath.Join(dir, "whole"), RestoreOptions{}); err != nil {
		t.Error(err)
	}
}
