package db

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Behind the last page of bbolt's file there is room on the disk, and no hole.
func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, path)
	if err := d.SetMark(context.Background(), "mark"); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	probe, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if err := unix.Fallocate(int(probe.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 4096); err != nil {
		t.Skipf("the file system cannot reserve: %v", err)
	}
	if st.Blocks*512 < reserved {
		t.Errorf("the file has %d bytes on the disk", st.Blocks*512)
	}
}
