package fs_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"storefs/fs"
	"storefs/store"
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

// brokenStore is one with a fault in it, for one name.
type brokenStore struct{ *fakeStore }

func (s brokenStore) Lookup(n string) (fs.Entry, error) {
	if n == name(9, "broken") {
		panic("a fault")
	}
	return s.fakeStore.Lookup(n)
}

// A fault is an error for whoever has met it, and for nobody else.
func TestFaultIsAnError(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, func(o *fs.Options) { o.Store = brokenStore{s} })
	n := s.add(name(1, "x"), recipe{make: tree})
	if out, err := sh(t, dir, `cat $S/$1`, name(9, "broken")); err == nil || !strings.Contains(out, "Input/output error") {
		t.Errorf("%q, %v", out, err)
	}
	must(t, dir, `cat $S/$1/share/doc`, "doc", n)
}

// An object that is valid, and lost, is not one that does not exist, and is to be repaired;
// a name that no object can have is nothing.
func TestLostObject(t *testing.T) {
	s := newFakeStore(t)
	v := &fakeVerifier{bad: map[string]error{"file": store.ErrHashMismatch, "dir": store.ErrHashMismatch}, asked: map[string]int{}}
	for _, verifier := range []fs.Verifier{nil, v} {
		dir, _ := mount(t, s, func(o *fs.Options) { o.Verifier = verifier })
		fails := func(name, want string) {
			t.Helper()
			if out, err := sh(t, dir, `cat $S/$1`, name); err == nil || !strings.Contains(out, want) {
				t.Errorf("%s: %q, %v, want %s", name, out, err, want)
			}
		}
		for i, make := range map[string]func(string) error{"file": regular("text"), "dir": tree} {
			n := name(1, i)
			if err := s.put(n, make); err != nil {
				t.Fatal(err)
			}
			makeWritable(s.real)
			if err := os.RemoveAll(filepath.Join(s.real, n)); err != nil {
				t.Fatal(err)
			}
			fails(n, "Input/output error")
			if asked := v.count(i) > 0; asked != (verifier != nil) {
				t.Errorf("%s: the verifier was asked: %v", n, asked)
			}
		}
		fails(".git", "No such file or directory")
	}
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
		"info\nlog\nstatus\nwaiters\nwhy\n"+dir+"/.storefs/log: "+dir+"/.storefs/why:")
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

// An object that takes the place of another one is found whole, also by those
// who knew the directories of the old one, before anybody is told.
func TestObjectIsExchanged(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	n := s.add(name(1, "x"), recipe{make: tree})
	must(t, dir, `cat $S/$1/bin/hello >/dev/null && ls $S/$1/share >/dev/null && echo known`, "known", n)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.Chmod(filepath.Join(s.real, n), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s.real, n), old); err != nil {
		t.Fatal(err)
	}
	makeWritable(old)
	if err := tree(filepath.Join(s.real, n)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.real, n, "bin/later"), []byte("later"), 0o444); err != nil {
		t.Fatal(err)
	}
	must(t, dir, `cat $S/$1/bin/later; echo; test -e $S/$1/bin/never || echo none`, "later\nnone", n)
}

// again deletes an object and makes another one in its place, before anybody looks.
func again(t *testing.T, s *fakeStore, server *fs.Server, name string, make func(string) error) {
	t.Helper()
	s.delete(t, name)
	server.Deleted([]string{name})
	<-server.Told()
	if err := s.put(name, make); err != nil {
		t.Fatal(err)
	}
	server.Changed()
	<-server.Told()
}

// An object that was deleted and made again, with other contents, is the new one in
// all that it is made of, also while somebody has the old one open.
func TestObjectIsMadeAgain(t *testing.T) {
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
		n, lone, large := name(1, "x"), name(2, "lone"), name(3, "large")
		size := 4 << 20
		if err := errors.Join(s.put(n, tree), s.put(lone, regular("old\n")), s.put(large, regular(strings.Repeat("a", size)))); err != nil {
			t.Fatal(err)
		}
		const look = `cat $S/$1/share/doc $S/$2; test -e $S/$1/share/later && echo later; ls $S/$1/share | xargs; tr -s a-z <$S/$3`
		later := func(p string) error {
			return errors.Join(tree(p), regular("a longer text\n")(p+"/share/doc"), regular("")(p+"/share/later"))
		}
		must(t, dir, look, "doc\nold\ndoc\na", n, lone, large)
		again(t, s, server, n, later)
		again(t, s, server, lone, regular("a longer text\n"))
		again(t, s, server, large, regular(strings.Repeat("b", size)))
		const want = "a longer text\na longer text\nlater\ndoc later\n"
		must(t, dir, look, want+"b", n, lone, large)

		left := filepath.Join(t.TempDir(), "left")
		_, wait := spawn(t, dir, `bash -c '
			exec 3<$S/$1/share/doc 4<$S/$2 5<$S/$3; cd $S/$1/share; head -c 4096 <&5 >/dev/null
			touch $4.open; until [ -e $4 ]; do sleep 0.01; done' bash "$@"`, n, lone, large, left)
		until(t, "open", func() bool { _, err := os.Stat(left + ".open"); return err == nil })
		again(t, s, server, n, tree)
		again(t, s, server, lone, regular("new\n"))
		again(t, s, server, large, regular(strings.Repeat("c", size)))
		for _, who := range []string{"in use", "left"} {
			if got, err := sh(t, dir, look, n, lone, large); err != nil || got != "doc\nnew\ndoc\nc" {
				t.Errorf("the old one is %s: %q, %v", who, got, err)
			}
			if who == "in use" {
				if err := os.WriteFile(left, nil, 0o644); err != nil {
					t.Fatal(err)
				}
				if err := wait(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// A link is followed without a question for its attributes: that it is another one is
// noticed after a while, also while somebody has the old one open, who never gets the new.
func TestLinkIsMadeAgain(t *testing.T) {
	needTool(t, "python3")
	s := newFakeStore(t)
	dir, server := mount(t, s, nil)
	known, unread, mark := name(1, "x"), name(2, "x"), filepath.Join(t.TempDir(), "open")
	if err := errors.Join(s.put(known, symlink("old")), s.put(unread, symlink("old"))); err != nil {
		t.Fatal(err)
	}
	_, wait := spawn(t, dir, `python3 -c "
import os, sys, time
known, unread = [os.open(name, os.O_PATH | os.O_NOFOLLOW) for name in sys.argv[1:3]]
def read(f):
	try: return os.readlink('', dir_fd=f)
	except OSError as e: return e.strerror
first = read(known)
open(sys.argv[3], 'w').close()
while os.readlink(sys.argv[1]) != 'new': time.sleep(0.01)
got = [first, read(known), read(unread)]
sys.exit(got if got[1] == 'new' or got[2] != 'Stale file handle' else 0)" $S/$1 $S/$2 $3`, known, unread, mark)
	until(t, "open", func() bool { _, err := os.Stat(mark); return err == nil })
	again(t, s, server, known, symlink("new"))
	again(t, s, server, unread, symlink("new"))
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// While a damaged object is replaced by what it should be, those who are at work in it
// see nothing of that: they go on in the new one. A file whose size was wrong is an error
// where the old one is not open, and nothing is cut off.
func TestObjectIsReplaced(t *testing.T) {
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
		const size = 4 << 20
		like := func(cut string) func(string) error {
			return func(p string) error {
				return errors.Join(tree(p), regular(strings.Repeat("a", size))(p+"/share/large"), regular(cut)(p+"/share/cut"), regular("other\n")(p+"/share/other"))
			}
		}
		n := name(1, "x")
		if err := s.put(n, like("")); err != nil {
			t.Fatal(err)
		}
		replace(t, s, server, n, like("some\n")) // as if its file had lost its bytes
		replace(t, s, server, n, like("so\n"))
		must(t, dir, `stat -c %s $S/$1/share/cut`, "3", n)

		left := filepath.Join(t.TempDir(), "left")
		out := filepath.Join(t.TempDir(), "out")
		_, wait := spawn(t, dir, `bash -c '
			exec 3<$S/$1/share/doc 4<$S/$1/share/large 5<$S/$1/share/cut 6<$S/$1/share; cd $S/$1/share
			head -c 4096 <&4 >/dev/null
			touch $2.open; until [ -e $2 ]; do sleep 0.01; done
			{ head -c 2 <&5; echo; cat <&3; cat <&4 | wc -c; ls | xargs; ls /proc/self/fd/6 | xargs; cat other; } >$3 2>&1
			touch $2.again; until [ ! -e $2 ]; do sleep 0.01; done
			stat nothing >$3 2>&1; true' bash "$@"`, n, left, out)
		until(t, "open", func() bool { _, err := os.Stat(left + ".open"); return err == nil })
		replace(t, s, server, n, like("longer\n"))
		must(t, dir, `cat $S/$1/share/cut`, "longer", n)
		if err := os.WriteFile(left, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		until(t, "read", func() bool { _, err := os.Stat(left + ".again"); return err == nil })
		got, err := os.ReadFile(out)
		want := fmt.Sprint("\ndoc\n", size-4096, "\ncut doc large other\ncut doc large other\nother\n")
		rest, ok := strings.CutSuffix(string(got), want)
		if err != nil || !ok {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if data == fs.DataNoOpen {
			ok = strings.Contains(rest, "Stale file handle")
		} else {
			ok = rest == "so"
		}
		if !ok {
			t.Errorf("of the file whose size was wrong: %q", rest)
		}
		// One that is not its like has its place.
		again(t, s, server, n, func(p string) error { return errors.Join(tree(p), regular("others\n")(p+"/share/other")) })
		if err := os.Remove(left); err != nil {
			t.Fatal(err)
		}
		if err := wait(); err != nil {
			t.Error(err)
		}
		if end, err := os.ReadFile(out); err != nil || !strings.Contains(string(end), "Stale file handle") {
			t.Errorf("it goes on in another one: %q, %v", end, err)
		}
		must(t, dir, `cat $S/$1/share/other`, "others", n)
	})
}

// openHere are the files below dir that this process, which is the server, has open.
func openHere(t *testing.T, dir string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, dir+"/") {
			open = append(open, to)
		}
	}
	return open
}

// What was deleted while somebody had it open, or was in it, has its place on the disk until
// that one is gone, and no longer.
func TestDeletedObjectLeavesTheDisk(t *testing.T) {
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
		n := s.add(name(1, "x"), recipe{make: tree})
		user := exec.Command("bash", "-c", `cd $1/share && exec 3< doc && read -u 3 line && echo $line && read line`, "bash", filepath.Join(dir, n))
		in, err := user.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := user.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := user.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "doc\n" {
			t.Errorf("read %q, %v", line, err)
		}
		object := filepath.Join(s.real, n)
		if data != fs.DataPassthrough && len(openHere(t, object)) == 0 {
			t.Error("nothing is open")
		}
		s.delete(t, n)
		server.Deleted([]string{n})
		<-server.Told()
		in.Close()
		_ = user.Wait() // it is told that there was no line
		until(t, "nothing is open of what was deleted", func() bool { return len(openHere(t, object)) == 0 })
	})
}
