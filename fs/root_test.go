package fs_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestListingFollowsChanges(t *testing.T) {
	s := newFakeStore(t)
	dir, server := mount(t, s, nil)
	put := func(i int) {
		t.Helper()
		if err := s.put(name(i, "x"), tree); err != nil {
			t.Fatal(err)
		}
		server.Changed()
	}
	names := func() []string {
		t.Helper()
		out, err := sh(t, dir, `ls -U $S`)
		if err != nil {
			t.Fatal(out, err)
		}
		return strings.Fields(out)
	}
	var want []string
	for i := range 5 {
		put(i)
		want = append(want, name(i, "x"))
		until(t, "listed", func() bool { return slices.Equal(names(), want) })
	}
	must(t, dir, `ls -A $S | grep storefs; test -d $S/.storefs && echo hidden`, "hidden")

	// What is deleted leaves the listing and can be made again, while an open
	// file stays readable.
	s.add(name(2, "x"), recipe{make: tree})
	must(t, dir, `cat $S/$1/share/doc`, "doc", name(2, "x"))
	s.delete(t, name(2, "x"))
	server.Deleted([]string{name(2, "x")})
	want = slices.Delete(want, 2, 3)
	until(t, "not listed", func() bool { return slices.Equal(names(), want) })
	must(t, dir, `cat $S/$1/share/doc`, "doc", name(2, "x"))
	if b := s.built(name(2, "x")); b != 1 {
		t.Errorf("%d builds of what was deleted", b)
	}
	// What is deleted and not known is not there.
	s.delete(t, name(3, "x"))
	server.Deleted([]string{name(3, "x")})
	until(t, "gone", func() bool { _, err := sh(t, dir, `stat $S/$1`, name(3, "x")); return err != nil })
}

// Deleting what somebody holds open, or stands in, is seen by new callers at
// once.
func TestDeletedWhileOpen(t *testing.T) {
	s := newFakeStore(t)
	dir, server := mount(t, s, nil)
	n := s.add(name(1, "x"), recipe{make: tree})
	cmd, wait := spawn(t, dir, `bash -c 'cd $S/'$1' && exec 3<share/doc && read -r x <&3 && kill -STOP $$; test $x = doc'`, n)
	until(t, "stopped", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		return strings.Contains(string(b), ") T ")
	})
	s.delete(t, n)
	s.add(n, recipe{make: regular("new\n")})
	server.Deleted([]string{n})
	until(t, "the new object", func() bool { out, _ := sh(t, dir, `cat $S/$1`, n); return out == "new" })
	if err := cmd.Process.Signal(sigcont); err != nil {
		t.Fatal(err)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// A listing that is read slowly, while names are added, has all that were
// there from beginning to end, each once.
func TestListingUnderAdditions(t *testing.T) {
	s := newFakeStore(t)
	dir, server := mount(t, s, nil)
	want := map[string]bool{}
	for i := 0; i < 2000; i += 2 {
		want[name(i, "x")] = true
		if err := s.put(name(i, "x"), regular("")); err != nil {
			t.Fatal(err)
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; i < 2000; i += 2 {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond / 2):
			}
			if err := s.put(name(i, "x"), regular("")); err != nil {
				t.Error(err)
			}
			server.Changed()
		}
	}()
	for range 5 {
		out, err := sh(t, dir, `python3 -c "
import os, time
for i, e in enumerate(os.scandir('$S')):
	print(e.name, e.inode())
	if i % 300 == 0: time.sleep(0.02)"`)
		if err != nil {
			t.Fatal(out, err)
		}
		seen := map[string]int{}
		inodes := map[string]bool{}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			seen[f[0]]++
			if inodes[f[1]] {
				t.Errorf("inode %s twice", f[1])
			}
			inodes[f[1]] = true
		}
		for n, c := range seen {
			if c > 1 {
				t.Errorf("%s listed %d times", n, c)
			}
		}
		for n := range want {
			if seen[n] == 0 {
				t.Fatalf("%s not listed", n)
			}
		}
	}
	close(stop)
	<-stopped
}

// A position in the listing means the same however it was reached.
func TestSeekInListing(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	for i := range 300 {
		if err := s.put(name(i, "x"), regular("")); err != nil {
			t.Fatal(err)
		}
	}
	must(t, dir, `python3 -c "
import ctypes, os
libc = ctypes.CDLL(None)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for f in ('telldir', 'readdir', 'rewinddir'): getattr(libc, f).argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
def names(d):
	while True:
		e = libc.readdir(d)
		if not e: return
		yield ctypes.string_at(e + 19), libc.telldir(d)
d = libc.opendir(b'$S')
all = list(names(d))
print(len(all), len({p for _, p in all}))
for i in (0, 1, 2, 150, 300):
	libc.seekdir(d, all[i][1])
	print([n for n, _ in names(d)] == [n for n, _ in all[i + 1:]])
"`, "302 302\nTrue\nTrue\nTrue\nTrue\nTrue")
}
