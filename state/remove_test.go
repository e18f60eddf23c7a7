package state

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/tree"
)

// hostile makes a tree of what is hard to remove: closed and read-only
// directories, links to elsewhere, and more levels than a process may have
// files open or a path may have bytes.
func hostile(t *testing.T, dir, outside string, depth int, uid uint32) {
	t.Helper()
	for _, d := range []string{"ro/inner", "closed/inner", "plain"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "file"), []byte("x"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range depth {
		name := "deep"
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
		if i%7 == 0 {
			if f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
				unix.Close(f)
			}
		}
		if uid != 0 {
			if err := unix.Fchown(fd, int(uid), int(uid)); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Fchmod(fd, 0o555); err != nil {
			t.Fatal(err)
		}
	}
	unix.Close(fd)
	if uid != 0 {
		for _, p := range []string{".", "ro", "ro/inner", "ro/inner/file", "closed", "closed/inner", "closed/inner/file", "plain", "plain/file"} {
			if err := os.Lchown(filepath.Join(dir, p), int(uid), int(uid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		path string
		mode os.FileMode
	}{{"ro/inner", 0o555}, {"ro", 0o555}, {"closed/inner", 0}, {"closed", 0}, {".", 0o555}} {
		if err := os.Chmod(filepath.Join(dir, c.path), c.mode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoveAll(t *testing.T) {
	for _, uid := range users() {
		t.Run(fmt.Sprint("uid", uid), func(t *testing.T) {
			top := ownedDir(t, openMemoryDir(t), uid)
			outside := filepath.Join(openDir(t), "outside")
			if err := os.WriteFile(outside, []byte("mine"), 0o644); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(top, "tree")
			hostile(t, dir, outside, 3000, uid)
			c := play(t, "remover", uid, dir)
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if left, err := os.ReadDir(top); err != nil || len(left) > 0 {
				t.Fatalf("left: %v, %v", left, err)
			}
			if _, err := os.Stat(outside); err != nil {
				t.Fatalf("it followed a link: %v", err)
			}
		})
	}
	if err := tree.RemoveAll(filepath.Join(t.TempDir(), "nothing", "there")); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := tree.RemoveAll(file); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is still there")
	}
}
