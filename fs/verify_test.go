package fs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/fs"
	"storefs/store"
)

// slowVerifier takes until its caller gives up, for one path.
type slowVerifier struct {
	path  atomic.Pointer[string]
	asked chan string
}

func (v *slowVerifier) Verify(ctx context.Context, _, path string) error {
	if path != *v.path.Load() {
		return nil
	}
	v.asked <- path
	<-ctx.Done()
	return ctx.Err()
}

// Whoever waits for something to be compared can be killed, and no other signal ends
// that wait.
func TestKillDuringVerify(t *testing.T) {
	needTool(t, "python3")
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		v := &slowVerifier{asked: make(chan string, 100)}
		dir, _ := mount(t, s, func(o *fs.Options) { o.Verifier, o.Data = v, data })
		n := name(1, "x")
		if err := s.put(n, func(p string) error { return errors.Join(tree(p), regular("")(p+"/empty")) }); err != nil {
			t.Fatal(err)
		}
		for path, c := range map[string]string{
			"bin":       `os.listdir(sys.argv[1] + '/bin')`,
			"share/doc": `open(sys.argv[1] + '/share/doc').read()`,
			"link":      `os.readlink(sys.argv[1] + '/link')`,
			"empty":     `os.stat(sys.argv[1] + '/empty')`,
		} {
			v.path.Store(&path)
			cmd, wait := spawn(t, dir, `python3 -c "
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda n, f: None)
`+c+`" $S/$1`, n)
			if got := <-v.asked; got != path {
				t.Errorf("%s is compared, not %s", got, path)
			}
			cmd.Process.Signal(unix.SIGUSR1)
			select {
			case <-v.asked:
				t.Errorf("%s: the wait was ended by a signal", path)
			case <-time.After(80 * time.Millisecond):
			}
			cmd.Process.Kill()
			if err := wait(); err == nil || err.Error() != "signal: killed" {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

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
	// A process that serves a mount must not open its files: Go's runtime asks
	// whether they can be polled, and nobody may be left to answer.
	fails := func(script, name string, want syscall.Errno) {
		t.Helper()
		// For the shells' and tools' own words.
		words := map[syscall.Errno]string{syscall.EIO: "Input/output error", syscall.ESTALE: "Stale file handle"}
		if out, err := sh(t, dir, script, name); err == nil || !strings.Contains(out, words[want]) {
			t.Errorf("%s: %q, %v, want %v", script, out, err, want)
		}
	}
	for range 2 {
		fails(`cat $S/$1/share/doc`, n, syscall.EIO)
		fails(`cat $S/$1`, lone, syscall.EIO)
		fails(`readlink -v $S/$1`, link, syscall.EIO)
		fails(`readlink -v $S/$1/link`, n, syscall.EIO)
		fails(`stat $S/$1/empty`, n, syscall.EIO)
		must(t, dir, `stat -c %s $S/$1/share/doc`, "4", n)
		if _, err := sh(t, dir, `$S/$1/bin/hello`, n); err == nil {
			t.Error("exec succeeded")
		}
		if out, err := sh(t, dir, `python3 -c "import mmap; f=open('$S/$1/large','rb'); print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[5])"`, n); err == nil {
			t.Errorf("mmap gave %q", out)
		}
	}
	// Listing shows also what is damaged.
	must(t, dir, `ls $S/$1`, "bin\nempty\nlarge\nlink\nshare\nvoid", n)
	fails(`stat $S/$1/empty`, n, syscall.EIO)
	must(t, dir, `cat $S/$1/void; stat -c %s $S/$1/void`, "0", n)

	for key := range map[string]bool{"x/bin/hello": true, "x/share/doc": true, "x/empty": true, "x/large": true, "x/link": true, "lone": true, "link": true} {
		v.set(key, nil)
	}
	before := v.count("x/large")
	for range 5 {
		must(t, dir, `cat $S/$1/share/doc; wc -c <$S/$1/large; $S/$1/bin/hello; readlink $S/$1/link; stat -c %s $S/$1/empty`, "doc\n1048576\nhello\nshare/doc\n0", n)
		must(t, dir, `cat $S/$1`, "text", lone)
		must(t, dir, `readlink $S/$1`, "/etc/passwd", link)
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
	fails(`cat $S/$1/share/new`, n, syscall.ESTALE)
}

// Where a name is missing, or is of another kind, nobody is told that it does not exist,
// or what else is there; and what is whole can be used.
func TestVerifierOfDirectories(t *testing.T) {
	s := newFakeStore(t)
	damage := fmt.Errorf("it differs: %w", store.ErrHashMismatch)
	v := &fakeVerifier{bad: map[string]error{"x/share": damage, "x/bin": damage, "x/bin/hello": damage}, asked: map[string]int{}}
	dir, _ := mount(t, s, func(o *fs.Options) { o.Verifier = v })
	n := s.add(name(1, "x"), recipe{make: tree})
	for _, script := range []string{`ls $S/$1/share`, `stat $S/$1/share/missing`, `stat $S/$1/bin/hello`} {
		if out, err := sh(t, dir, script, n); err == nil || !strings.Contains(out, "Input/output error") {
			t.Errorf("%s: %q, %v", script, out, err)
		}
	}
	must(t, dir, `cat $S/$1/share/doc; readlink $S/$1/link; ls $S/$1`, "doc\nshare/doc\nbin\nlink\nshare", n)
	for key := range v.bad {
		v.set(key, nil)
	}
	must(t, dir, `ls $S/$1/share; $S/$1/bin/hello; ! [ -e $S/$1/share/missing ]`, "doc\nhello", n)
	asked := v.count("x/share")
	must(t, dir, `! [ -e $S/$1/share/other ]; ls $S/$1/share`, "doc", n)
	if again := v.count("x/share"); again != asked {
		t.Errorf("the directory was compared %d times more", again-asked)
	}
}

// Nobody looks for a file of an object that is gone in the one that has its place.
func TestVerifierIsNotAskedOfWhatIsGone(t *testing.T) {
	s := newFakeStore(t)
	v := &fakeVerifier{bad: map[string]error{}, asked: map[string]int{}}
	dir, server := mount(t, s, func(o *fs.Options) { o.Verifier = v })
	n := name(1, "x")
	if err := s.put(n, func(p string) error { return errors.Join(tree(p), regular("old\n")(p+"/old")) }); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	_, wait := spawn(t, dir, `bash -c '
		exec 3<$S/$1/old; touch $2.open; until [ -e $2 ]; do sleep 0.01; done; ! cat <&3 2>$2' bash "$@"`, n, gone)
	until(t, "open", func() bool { _, err := os.Stat(gone + ".open"); return err == nil })
	again(t, s, server, n, tree)
	if err := os.WriteFile(gone, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := wait(); err != nil {
		t.Errorf("it could be read: %v", err)
	}
	if said, err := os.ReadFile(gone); err != nil || !strings.Contains(string(said), "Stale file handle") {
		t.Errorf("%q, %v", said, err)
	}
	if c := v.count("x/old"); c != 0 {
		t.Errorf("the verifier was asked %d times", c)
	}
}
