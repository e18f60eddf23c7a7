package rawfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Files of all sizes around the one that is expected come back as they were
// written, by package os as well.
func TestReadWhatIsWritten(t *testing.T) {
	old := unix.Umask(0o777)
	defer unix.Umask(old)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 99, 100, 101, 5000} {
		p := filepath.Join(dir, "f")
		want := bytes.Repeat([]byte("x"), n)
		if err := Write(p, want, 0o444); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(p); err != nil || st.Mode() != 0o444 {
			t.Errorf("%d bytes: %v %v", n, st, err)
		}
		for _, size := range []int{0, 100} {
			if got, err := Read(p, size); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %d expected: %d, %v", n, size, len(got), err)
			}
		}
		if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, read by os: %d, %v", n, len(got), err)
		}
		if err := Write(p, want, 0o444); !errors.Is(err, fs.ErrExist) {
			t.Errorf("written twice: %v", err)
		}
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Read(dir, 10); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory was read: %v", err)
	}
	if _, err := Read(dir+"/absent", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read of nothing: %v", err)
	}
	if _, err := Open(dir+"/absent/file", unix.O_RDWR|unix.O_CREAT, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made in nothing: %v", err)
	}
	f, err := Open(dir+"/file", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("text"); err != nil || f.Name() != dir+"/file" {
		t.Errorf("%s: %v", f.Name(), err)
	}
}
