package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSize(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.Repeat("x", size)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		t.Helper()
		n, whole, err := Size(t.Context(), dir)
		if err != nil || !whole {
			t.Fatalf("whole: %t, %v", whole, err)
		}
		return n
	}
	const big = 1 << 20
	write("a", 1)
	before := size()
	write("d/file", big)
	after := size()
	if got := after - before; got < big || got > big+64<<10 {
		t.Errorf("a file of %d bytes in a directory takes up %d", big, got)
	}
	if err := os.Link(dir+"/d/file", dir+"/again"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", dir+"/d/link"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Truncate(dir+"/a", 1<<40); err != nil {
		t.Fatal(err)
	}
	if got := size() - after; got > 64<<10 {
		t.Errorf("a second name, a link and a hole take up %d", got)
	}
	// One that is deeper than a path can be long.
	if err := os.Chdir(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Chdir("/")
		_ = RemoveAll(dir)
	})
	for range 30 {
		name := strings.Repeat("n", 200)
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chdir(name); err != nil {
			t.Fatal(err)
		}
	}
	if n, whole, err := Size(t.Context(), dir); err != nil || whole || n < after {
		t.Errorf("%d, whole: %t, %v", n, whole, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Size(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, _, err := Size(t.Context(), dir+"/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
