package fs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSnapshotsAreBounded(t *testing.T) {
	s := newSnapshots()
	big := make([]dirent, maxSnapshot/2+1)
	reads := 0
	get := func(inode uint64) {
		if _, err := s.get(snapshotKey{inode: inode}, func() ([]dirent, error) { reads++; return big, nil }); err != nil {
			t.Fatal(err)
		}
	}
	get(1)
	get(1)
	get(2) // throws 1 away
	get(1)
	if reads != 3 || s.entries != len(big) || s.lru.Len() != 1 || len(s.byKey) != 1 {
		t.Errorf("%d reads, %d entries of %d directories", reads, s.entries, len(s.byKey))
	}
}

// What is known of a directory is known without its file system; of another one,
// that came to be in its place, nothing is.
func TestSnapshotsAreKept(t *testing.T) {
	real := t.TempDir()
	b, err := openBacking(real)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	nodes, s := newNodes(), newSnapshots()
	n := nodes.child(nodes.root, "dir", kindObject)
	get := func() (v *snapshot, read bool) {
		t.Helper()
		st, err := b.stat(n)
		if err != nil {
			t.Fatal(err)
		}
		v, err = s.get(keyOf(&st), func() ([]dirent, error) { read = true; return b.list(n) })
		if err != nil {
			t.Fatal(err)
		}
		return v, read
	}
	for i := range 5 {
		dir := filepath.Join(real, "dir")
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "file"), make([]byte, i), 0o644)); err != nil {
			t.Fatal(err)
		}
		v, read := get()
		if !read || len(v.entries) != 1 {
			t.Fatalf("read: %v, %v", read, v.entries)
		}
		fd, err := openBeneath(b.real, n.path(), unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		st, err := v.stat(0, fd)
		unix.Close(fd)
		if err != nil || st.Size != int64(i) {
			t.Errorf("%+v, %v", st, err)
		}
		v, read = get()
		if again, err := v.stat(0, -1); read || again != st || err != nil {
			t.Errorf("read again: %v, %v", read, err)
		}
		time.Sleep(10 * time.Millisecond) // the clock of file systems ticks each 4 ms
	}
}
