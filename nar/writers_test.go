package nar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// wood is more files than are written at a time, in more directories than a lineage keeps
// open, some of them larger than what is written aside.
func wood() node {
	deep := file("at the end")
	for i := range 2 * openDirs {
		deep = folder(map[string]node{"down": deep, "file": file(strings.Repeat("x", i)), "run": fileMode("#!", 0o755)})
	}
	dirs := map[string]node{"deep": deep, "large": file(strings.Repeat("large ", maxAside/6+1)), "link": link("large")}
	for i := range 30 {
		files := map[string]node{}
		for j := range i {
			files[fmt.Sprint("f", j)] = file(fmt.Sprint(i, "-", j))
		}
		dirs[fmt.Sprint("d", i)] = folder(files)
	}
	return folder(dirs)
}

// However many write its files, what is restored is canonical and the same.
func TestRestoreTogether(t *testing.T) {
	path := inTemp(t, wood())
	archive := dump(t, path)
	var was listener
	if _, err := Ingest(context.Background(), path, IngestOptions{UID: os.Getuid(), GID: os.Getgid(), File: was.file}); err != nil {
		t.Fatal(err)
	}
	want := modes(t, path)
	for _, processors := range []int{1, 2, maxWriters} {
		old := runtime.GOMAXPROCS(processors)
		defer runtime.GOMAXPROCS(old)
		dest := filepath.Join(tempDir(t), "object")
		var is listener
		if err := Restore(bytes.NewReader(archive), dest, RestoreOptions{File: is.file}); err != nil {
			t.Fatal(err)
		}
		if got := modes(t, dest); !slices.Equal(got, want) {
			t.Errorf("%d processors: restored\n%s\nwant\n%s", processors, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if !bytes.Equal(dump(t, dest), archive) {
			t.Errorf("%d processors: restored something else", processors)
		}
		if !maps.Equal(was.files, is.files) {
			t.Errorf("%d processors: told of %d files, want %d", processors, len(is.files), len(was.files))
		}
	}
}

// What somebody else has failed to write fails the whole, and nothing is left.
func TestRestoreTogetherFull(t *testing.T) {
	archive := dump(t, inTemp(t, wood()))
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "nr_inodes=100,mode=755"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for range 20 {
		err := Restore(bytes.NewReader(archive), dir+"/object", RestoreOptions{})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `: "d`) {
			t.Fatalf("got %v, want that there is no space, and where", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("left: %v, %v", left, err)
		}
	}
	// So it is where the archive ends before what is written aside.
	for _, n := range []int{len(archive) / 100, len(archive) / 3, len(archive) - 8} {
		err := Restore(bytes.NewReader(archive[:n]), filepath.Join(t.TempDir(), "object"), RestoreOptions{})
		if !errors.Is(err, store.ErrBadArchive) {
			t.Errorf("cut at %d of %d: %v", n, len(archive), err)
		}
	}
}
