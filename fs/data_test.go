package fs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/fs"
)

// privileged reports whether this is root outside of user namespaces.
func privileged(t *testing.T) bool {
	t.Helper()
	m, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return uid() == 0 && strings.Join(strings.Fields(string(m)), " ") == "0 0 4294967295"
}

// eachData tests every way that works here.
func eachData(t *testing.T, test func(*testing.T, fs.Data)) {
	for _, data := range []fs.Data{fs.DataNoOpen, fs.DataPassthrough, fs.DataCached} {
		t.Run(string(data), func(t *testing.T) {
			if data == fs.DataPassthrough && !privileged(t) {
				t.Skip("passthrough needs root")
			}
			test(t, data)
		})
	}
}

func TestContents(t *testing.T) { eachData(t, testContents) }

func testContents(t *testing.T, data fs.Data) {
	s := newFakeStore(t)
	dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
	const size = 3 << 30
	n := s.add(name(1, "x"), recipe{make: func(p string) error {
		long := filepath.Join(p, strings.Repeat("n", 255))
		err := errors.Join(os.Mkdir(p, 0o755), os.WriteFile(long, []byte("long"), 0o644), os.Link(long, filepath.Join(p, "hard")))
		sparse, err2 := os.Create(filepath.Join(p, "sparse"))
		if err2 != nil {
			return errors.Join(err, err2)
		}
		defer sparse.Close()
		_, err3 := sparse.WriteAt([]byte("data"), 1<<30)
		big, err4 := os.Create(filepath.Join(p, "big"))
		if err4 != nil {
			return err4
		}
		defer big.Close()
		for i := range 1 << 16 {
			fmt.Fprintf(big, "%063d\n", i)
		}
		return errors.Join(err, err3, sparse.Truncate(size))
	}})
	must(t, dir, `cat $S/$1/n*; stat -c '%h' $S/$1/hard; cmp $S/$1/n* $S/$1/hard && echo same
		test $(stat -c %i $S/$1/hard) = $(stat -c %i $S/$1/n*) && echo linked`, "long2\nsame\nlinked", n)
	must(t, dir, `stat -c %s $S/$1/sparse; python3 -c "
import os
f = os.open('$S/$1/sparse', os.O_RDONLY)
data = os.lseek(f, 0, os.SEEK_DATA); hole = os.lseek(f, data, os.SEEK_HOLE)
print(data, hole < data + (1 << 20), os.pread(f, 4, 1 << 30), os.pread(f, 10, (3 << 30) - 4), os.pread(f, 1, 3 << 30))"`,
		`3221225472
1073741824 True b'data' b'\x00\x00\x00\x00' b''`, n)
	before := descriptors(t)
	sum := hashOf(t, filepath.Join(s.real, n, "big"))
	must(t, dir, `sha256sum < $S/$1/big; dd if=$S/$1/big bs=64k iflag=direct status=none | sha256sum`, sum+"  -\n"+sum+"  -", n)
	reads := server.Requests()["read"]
	must(t, dir, `sha256sum < $S/$1/big`, sum+"  -", n)
	if more := server.Requests()["read"] - reads; more > 0 {
		t.Errorf("what the kernel has is read again: %d reads", more)
	}
	must(t, dir, `for i in 65535 0 12345 40000; do dd if=$S/$1/big bs=64 skip=$i count=1 status=none; done | sed 's/^0*\(.\)/\1/'`,
		"65535\n0\n12345\n40000", n)
	must(t, dir, `cd $S/$1; python3 -c "
import mmap
f = open('big')
m = mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
print(int(m[64 * 4321:64 * 4322]))"`, "4321", n)
	until(t, "files are open once, and pipes are given back", func() bool { return descriptors(t) <= before+2*runtime.GOMAXPROCS(0)+8 })
	must(t, dir, `stat -f -c %T%S $S | grep -c fuse; test $(stat -f -c %b $S) = $(stat -f -c %b $1) && echo same`, "1\nsame", s.real)
	// No-open is settled by the first.
	if opens := server.Requests()["open"]; server.Data() != data || (opens == 1) != (data == fs.DataNoOpen) {
		t.Errorf("data is %s, requests are %v", server.Data(), server.Requests())
	}
	if reads := server.Requests()["read"]; (reads == 0) != (data == fs.DataPassthrough) {
		t.Errorf("%s: %d reads", data, reads)
	}
	must(t, dir, `cat $S/.storefs/status`, "begun 1")
}

// Without the privilege, passthrough says so and leaves nothing.
func TestPassthroughRefused(t *testing.T) {
	if privileged(t) {
		t.Skip("root may")
	}
	needFuse(t)
	s := newFakeStore(t)
	dir := mountDir(t)
	_, err := fs.Mount(fs.Options{Mountpoint: dir, Real: s.real, Store: s, Realiser: s, Data: fs.DataPassthrough})
	if err == nil || !strings.HasSuffix(err.Error(), "passthrough needs CAP_SYS_ADMIN outside of user namespaces") {
		t.Errorf("%v", err)
	}
	if mounted(dir) {
		t.Error("still mounted")
	}
}

func TestDataAuto(t *testing.T) {
	s := newFakeStore(t)
	_, server := mount(t, s, nil)
	if server.Data() != fs.DataNoOpen {
		t.Error(server.Data())
	}
}

// A process reads on in what was deleted after it opened it, whatever the
// kernel has in its caches.
func TestOpenOutlivesDeletion(t *testing.T) {
	eachData(t, func(t *testing.T, data fs.Data) {
		if data == fs.DataNoOpen {
			t.Skip("without OPEN nobody knows")
		}
		s := newFakeStore(t)
		dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
		text := strings.Repeat("all of it\n", 100_000)
		if err := s.put(name(1, "x"), regular(text)); err != nil {
			t.Fatal(err)
		}
		gone, read := filepath.Join(t.TempDir(), "gone"), make(chan string, 1)
		go func() {
			out, _ := sh(t, dir, `exec 3<$S/$1; head -c 10 <&3; touch $2.open; until [ -e $2 ]; do sleep 0.01; done; cat <&3 | md5sum`, name(1, "x"), gone)
			read <- out
		}()
		until(t, "open", func() bool { _, err := os.Stat(gone + ".open"); return err == nil })
		s.delete(t, name(1, "x"))
		server.Deleted([]string{name(1, "x")})
		if err := os.WriteFile(gone, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		want, err := sh(t, "", `printf 'all of it\n'; yes 'all of it' | head -n 99999 | md5sum`)
		if err != nil {
			t.Fatal(want, err)
		}
		if got := <-read; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		until(t, "it is gone", func() bool {
			out, _ := sh(t, dir, `stat $S/$1`, name(1, "x"))
			return strings.Contains(out, "No such file")
		})
		until(t, "it is closed", func() bool { return !s.open(t) })
	})
}

// What was deleted, and nobody has open, takes no room on the disk.
func TestDeletedIsClosed(t *testing.T) {
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
		n, lone := s.add(name(1, "x"), recipe{make: tree}), s.add(name(2, "lone"), recipe{make: regular("text")})
		must(t, dir, `cat $S/$1/share/doc $S/$2; ls $S/$1/bin`, "doc\ntexthello", n, lone)
		if !s.open(t) {
			t.Error("nothing is open")
		}
		for _, n := range []string{n, lone} {
			s.delete(t, n)
			server.Deleted([]string{n})
		}
		until(t, "all is closed", func() bool { return !s.open(t) })
	})
}

// open reports whether this process has some object open.
func (s *fakeStore) open(t *testing.T) bool {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, _ := os.Readlink(fd)
		return strings.HasPrefix(to, s.real+"/")
	})
}

// Many processes that open, map, and close the same files at once share what is
// open here, and leave nothing behind.
func TestOpensAreShared(t *testing.T) {
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, func(o *fs.Options) { o.Data = data })
		const files = 700 // more than are kept open
		if err := s.put(name(1, "x"), func(p string) error {
			err := os.Mkdir(p, 0o755)
			for i := range files {
				err = errors.Join(err, os.WriteFile(filepath.Join(p, fmt.Sprint(i)), fmt.Appendf(nil, "file %d\n", i), 0o644))
			}
			return errors.Join(err, script("echo hello")(filepath.Join(p, "prog")))
		}); err != nil {
			t.Fatal(err)
		}
		before := descriptors(t)
		must(t, dir, `cd $S/$1; for i in 1 2 3 4; do python3 -c "
import mmap, os, random
r = random.Random($i)
for _ in range(2):
	kept = []
	for i in r.sample(range(700), 700):
		f = open(str(i), 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); kept.append((f, m))
		assert f.read() == b'file %d\n' % i == m[:]
		if len(kept) > 100: kept = kept[50:]
" & done; wait; ./prog; wait`, "hello", name(1, "x"))
		until(t, "descriptors are closed", func() bool { return descriptors(t) <= before+600 })
		s.delete(t, name(1, "x"))
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Also objects on an overlayfs can be read by passthrough.
func TestPassthroughOnOverlay(t *testing.T) {
	if !privileged(t) {
		t.Skip("mounting an overlayfs needs root")
	}
	base := t.TempDir()
	mountAt := func(source, fstype, dir, options string) {
		t.Helper()
		if err := unix.Mount(source, dir, fstype, 0, options); err != nil {
			missing(t, fmt.Sprintf("no %s: %v", fstype, err))
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	mountAt("none", "tmpfs", base, "")
	for _, d := range []string{"lower", "upper", "work", "all"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all := filepath.Join(base, "all")
	mountAt("none", "overlay", all, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base))
	real := filepath.Join(all, "real")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	s := openFakeStore(real)
	if err := s.put(name(1, "x"), tree); err != nil {
		t.Fatal(err)
	}
	dir, server := mount(t, s, func(o *fs.Options) { o.Data = fs.DataPassthrough })
	must(t, dir, `cat $S/$1/share/doc; $S/$1/bin/hello`, "doc\nhello", name(1, "x"))
	if n := server.Requests()["read"]; n > 0 {
		t.Errorf("%d reads", n)
	}
}
