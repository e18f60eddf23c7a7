package fs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"storefs/fs"
	"storefs/store"
)

// fakeVerifier finds damaged what the test says is.
type fakeVerifier struct {
	mu    sync.Mutex
	bad   map[string]error // by NAME/path, without the digest
	asked map[string]int
}

func (v *fakeVerifier) Verify(_ context.Context, name, path string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := strings.TrimSuffix(name[store.DigestLen+1:]+"/"+path, "/")
	v.asked[key]++
	return v.bad[key]
}

func (v *fakeVerifier) set(key string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bad[key] = err
}

func (v *fakeVerifier) count(key string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked[key]
}

// What is damaged is an error in whichever way it is read, and what is not is
// compared once.
func TestVerifier(t *testing.T) {
	s := newFakeStore(t)
	v := &fakeVerifier{bad: map[string]error{}, asked: map[string]int{}}
	dir, _ := mount(t, s, func(o *fs.Options) { o.Verifier = v })
	n := s.add(name(1, "x"), recipe{make: func(p string) error {
		return errors.Join(tree(p), regular("")(p+"/empty"), regular("")(p+"/void"), regular(strings.Repeat("x", 1<<20))(p+"/large"))
	}})
	lone := s.add(name(2, "lone"), recipe{make: regular("text")})
	link := s.add(name(3, "link"), recipe{make: symlink("/etc/passwd")})
	damage := fmt.Errorf("it differs: %w", store.ErrHashMismatch)
	for _, key := range []string{"x/bin/hello", "x/share/doc", "x/empty", "x/large", "x/link", "lone", "link"} {
		v.set(key, damage)
	}
	p := filepath.Join(dir, n)
	fails := func(what string, err error, want syscall.Errno) {
		t.Helper()
		if (want != 0 || err != nil) && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	read := func(path string) error { _, err := os.ReadFile(path); return err }
	readlink := func(path string) error { _, err := os.Readlink(path); return err }
	stat := func(path string) error { _, err := os.Lstat(path); return err }
	for range 2 {
		fails("read", read(p+"/share/doc"), syscall.EIO)
		fails("read", read(filepath.Join(dir, lone)), syscall.EIO)
		fails("readlink", readlink(filepath.Join(dir, link)), syscall.EIO)
		fails("readlink", readlink(p+"/link"), syscall.EIO)
		fails("stat of an empty file", stat(p+"/empty"), syscall.EIO)
		fails("stat", stat(p+"/share/doc"), 0)
		if _, err := sh(t, dir, `$S/$1/bin/hello`, n); err == nil {
			t.Error("exec succeeded")
		}
		if out, err := sh(t, dir, `python3 -c "import mmap; f=open('$S/$1/large','rb'); print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[5])"`, n); err == nil {
			t.Errorf("mmap gave %q", out)
		}
	}
	// Listing shows also what is damaged.
	must(t, dir, `ls $S/$1`, "bin\nempty\nlarge\nlink\nshare\nvoid", n)
	must(t, dir, `cat $S/$1/void; stat -c %s $S/$1/void`, "0", n)

	for key := range map[string]bool{"x/bin/hello": true, "x/share/doc": true, "x/empty": true, "x/large": true, "x/link": true, "lone": true, "link": true} {
		v.set(key, nil)
	}
	before := v.count("x/large")
	for range 5 {
		must(t, dir, `cat $S/$1/share/doc; wc -c <$S/$1/large; $S/$1/bin/hello; readlink $S/$1/link; stat -c %s $S/$1/empty`, "doc\n1048576\nhello\nshare/doc\n0", n)
		fails("read", read(filepath.Join(dir, lone)), 0)
		fails("readlink", readlink(filepath.Join(dir, link)), 0)
	}
	if got := v.count("x/large") - before; got != 1 {
		t.Errorf("the file was compared %d times, want once", got)
	}
	// What is no longer valid is looked up again.
	v.set("x/share/new", store.ErrNotValid)
	if err := os.Chmod(filepath.Join(s.real, n, "share"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.real, n, "share", "new"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	fails("read", read(p+"/share/new"), syscall.ESTALE)
}
