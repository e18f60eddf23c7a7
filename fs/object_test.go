package fs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"storefs/fs"
)

// Inode numbers, of placeholders that became real, top-level objects and what
// is in them, are the same in every mount and in every way to see them.
func TestInodesAreStable(t *testing.T) {
	s := newFakeStore(t)
	var before string
	for i, promised := range append(shapes, "") {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir, _ := mount(t, s, nil)
			n := s.add(name(1, "x"), recipe{make: tree, promised: promised})
			f := s.add(name(2, "x"), recipe{make: regular("text")})
			touched, err := sh(t, dir, `stat -c '%i %n' $S/$1 $S/$2 | sed "s,$S,,"`, n, f)
			if err != nil {
				t.Fatal(touched, err)
			}
			now, err := sh(t, dir, `cd $S; find . -printf '%i %p\n' | sort -k2; ls -AUi1 . | sort -k2; ls -aUi1 $1/share | sort -k2`, n)
			if err != nil {
				t.Fatal(now, err)
			}
			now = touched + "\n" + now
			if before != "" && now != before {
				t.Errorf("before\n%s\nnow\n%s", before, now)
			}
			before = now
			must(t, dir, `cd $S/$1; for f in . .. share share/. share/.. share/doc; do
				a=$(stat -c %i $f); b=$(ls -di $f | cut -d' ' -f1); test $a = $b || echo $f $a $b; done`, "", n)
			must(t, dir, `find $S -printf '%i\n' | sort | uniq -d`, "")
		})
	}
}

func TestBigDirectory(t *testing.T) {
	s := newFakeStore(t)
	dir, server := mount(t, s, nil)
	const files = 6000
	n := s.add(name(1, "x"), recipe{make: func(p string) error {
		err := os.Mkdir(p, 0o755)
		for i := range files {
			err = errors.Join(err, os.WriteFile(filepath.Join(p, fmt.Sprint("file-", i)), nil, 0o644))
		}
		return err
	}})
	for range 2 {
		must(t, dir, `ls -U $S/$1 | sort -u | wc -l; find $S/$1 -type f -size 0 | wc -l`, fmt.Sprintf("%d\n%d", files, files), n)
	}
	// Sorted, as the order of offsets is by name.
	must(t, dir, `ls -U $S/$1 | LC_ALL=C sort -c && echo sorted`, "sorted", n)
	if got := server.Nodes(); got < files {
		t.Errorf("only %d nodes: entries came without attributes", got)
	}
	// The kernel forgets, and so do we.
	s.delete(t, n)
	server.Deleted([]string{n})
	until(t, "nodes are freed", func() bool { return server.Nodes() < 10 })
}

func TestDropCachesForgets(t *testing.T) {
	f, err := os.OpenFile("/proc/sys/vm/drop_caches", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("dropping caches needs root")
	}
	defer f.Close()
	s := newFakeStore(t)
	dir, server := mount(t, s, nil)
	n := s.add(name(1, "x"), recipe{make: tree})
	must(t, dir, `find $S/$1 | wc -l; cat $S/.storefs/status >/dev/null`, "6", n)
	before := server.Nodes()
	until(t, "nodes are freed", func() bool {
		if _, err := f.WriteString("2"); err != nil {
			t.Fatal(err)
		}
		return server.Nodes() < before && server.Nodes() <= 2
	})
	must(t, dir, `cat $S/$1/link`, "doc", n)
}

func TestContents(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
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
	sum := hashOf(t, filepath.Join(s.real, n, "big"))
	must(t, dir, `sha256sum < $S/$1/big; dd if=$S/$1/big bs=64k iflag=direct status=none | sha256sum`, sum+"  -\n"+sum+"  -", n)
	must(t, dir, `for i in 65535 0 12345 40000; do dd if=$S/$1/big bs=64 skip=$i count=1 status=none; done | sed 's/^0*\(.\)/\1/'`,
		"65535\n0\n12345\n40000", n)
	must(t, dir, `cd $S/$1; python3 -c "
import mmap
f = open('big')
m = mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
print(int(m[64 * 4321:64 * 4322]))"`, "4321", n)
	must(t, dir, `stat -f -c %T%S $S | grep -c fuse; test $(stat -f -c %b $S) = $(stat -f -c %b $1) && echo same`, "1\nsame", s.real)
}

func hashOf(t *testing.T, file string) string {
	t.Helper()
	out, err := sh(t, "", `sha256sum < $1 | cut -d' ' -f1`, file)
	if err != nil {
		t.Fatal(out, err)
	}
	return out
}

func TestControl(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	n := s.add(name(1, "x"), recipe{make: tree, hold: make(chan struct{})})
	must(t, dir, `ls -A $S; ls -A $S/.storefs; ls -A $S/.storefs/why $S/.storefs/log | xargs`,
		"log\nstatus\nwhy\n"+dir+"/.storefs/log: "+dir+"/.storefs/why:")
	must(t, dir, `cat $S/.storefs/status; cat $S/.storefs/why/$1`, "begun 0\nbuilder of "+n+" failed", n)
	must(t, dir, `wc -c < $S/.storefs/log/$1; stat -c '%F %a %s' $S/.storefs/log/$1; sort -u $S/.storefs/log/$1`,
		"360000\nregular file 444 360000\na line of the log", n)
	for _, c := range []string{`.storefs/why/` + name(9, "unknown"), `.storefs/log/` + name(9, "unknown"), `.storefs/why/bad`, `.storefs/nothing`} {
		if out, err := sh(t, dir, `cat $S/$1`, c); err == nil || !strings.Contains(out, "No such file") {
			t.Errorf("%s: %q, %v", c, out, err)
		}
	}
	if s.begun() != 0 {
		t.Errorf("%d builds begun", s.begun())
	}
	// What is shown is always new, also to somebody with an older one open.
	n2 := s.add(name(2, "x"), recipe{make: tree})
	must(t, dir, `exec 3<$S/.storefs/status; cat $S/$1/share/doc; cat $S/.storefs/status; cat <&3`, "doc\nbegun 1\nbegun 0", n2)
	for range 3 {
		must(t, dir, `cat $S/.storefs/status`, "begun 1")
	}
	must(t, dir, `python3 -c "
import os
f = os.open('$S/.storefs/log/$1', os.O_RDONLY)
print(os.lseek(f, 1000, os.SEEK_DATA), os.lseek(f, 1000, os.SEEK_HOLE))
try: os.lseek(f, 360000, os.SEEK_DATA)
except OSError as e: print(e.strerror)"`, "1000 360000\nNo such device or address", n)
}

func TestNoControl(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, func(o *fs.Options) { o.Control = nil })
	must(t, dir, `test -e $S/.storefs; echo $?`, "1")
}
