package fs_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/fs"
	"storefs/store"
)

// Every way to touch an object for the first time shows what it shows of the
// same object when it has been there before.
// opener is a client in Python that opens and shows what it got.
const opener = `
import ctypes, os, sys
NO_SYMLINKS = 4
def openat2(path, flags, resolve):
	how = (ctypes.c_uint64 * 3)(flags, 0, resolve)
	libc = ctypes.CDLL(None, use_errno=True)
	f = libc.syscall(437, -100, path.encode(), how, 24)
	if f < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
	return f
def show(path, flags, resolve=None):
	try:
		f = os.open(path, flags) if resolve is None else openat2(path, flags, resolve)
		st = os.fstat(f)
		print(oct(st.st_mode), st.st_size if st.st_mode & 0o40000 == 0 else '', st.st_ino)
	except OSError as e: print(e.strerror)
`

// Opens that fail at once where there is a link work at the first touch.
func TestOpensThatRefuseLinks(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	i := 0
	for _, o := range []struct {
		make     func(string) error
		promised store.Kind
	}{
		{tree, store.KindUnknown},
		{tree, store.KindDirectory},
		{regular("text\n"), store.KindUnknown},
		{regular("text\n"), store.KindRegular},
		{script("echo"), store.KindUnknown},
		{script("echo"), store.KindExecutable},
		{symlink("there"), store.KindUnknown},
		{symlink("there"), store.KindSymlink},
	} {
		args := []string{dir}
		for range 5 {
			i++
			args = append(args, s.add(name(i, "x"), recipe{make: o.make, promised: o.promised, delay: 10 * time.Millisecond}))
		}
		c := `python3 -c "` + opener + `
p = [os.path.join(sys.argv[1], n) for n in sys.argv[2:]]
show(p[0], os.O_NOFOLLOW)
show(p[1], os.O_NOFOLLOW | os.O_DIRECTORY)
show(p[2], 0, NO_SYMLINKS)
show(p[3], os.O_NOFOLLOW, 0)
show(p[4] + '/share/doc', os.O_NOFOLLOW, NO_SYMLINKS)
" "$@"`
		first, err1 := sh(t, dir, c, args...)
		again, err2 := sh(t, dir, c, args...)
		if err1 != nil || err2 != nil || first != again || strings.Contains(first, "Stale") {
			t.Errorf("promised %q: at first %q, %v\nlater %q, %v", o.promised, first, err1, again, err2)
		}
	}
}

// A descriptor that was opened without looking becomes that of the real object
// wherever its type was known, or guessed well.
func TestPathDescriptor(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	for i, o := range []struct {
		make     func(string) error
		promised store.Kind
		known    bool // it works at the first touch
	}{
		{tree, store.KindDirectory, true},
		{tree, store.KindUnknown, true},
		{regular("text\n"), store.KindRegular, true},
		{script("echo"), store.KindExecutable, true},
		{symlink("there"), store.KindSymlink, true},
		{symlink("there"), store.KindUnknown, false},
		{regular("text\n"), store.KindUnknown, false},
	} {
		n := s.add(name(i, "x"), recipe{make: o.make, promised: o.promised, delay: 20 * time.Millisecond})
		c := `python3 -c "` + opener + `show('$S/$1', os.O_PATH | os.O_NOFOLLOW)"`
		first, err1 := sh(t, dir, c, n)
		again, err2 := sh(t, dir, c, n)
		if err1 != nil || err2 != nil || strings.Contains(again, "Stale") || o.known && first != again {
			t.Errorf("%d: at first %q, %v; later %q, %v", i, first, err1, again, err2)
		}
	}
}

func TestFirstTouch(t *testing.T) {
	objects := []struct {
		kind   store.Kind
		make   func(string) error
		shapes []store.Kind // what may have been promised
		touch  []string
	}{
		{store.KindRegular, regular("text\n"), []store.Kind{store.KindUnknown, store.KindRegular}, []string{
			`cat $S/$1`, `test -f $S/$1`, `test -x $S/$1`, `readlink $S/$1`, `exec 3<$S/$1 && cat <&3`, `ls $S/$1/`, `cd $S/$1 2>&1 | sed 's/.*: //'`,
			`cp $S/$1 $T/c && cat $T/c`, `grep -c text $S/$1`, `head -c2 $S/$1`, `python3 -c "print(open('$S/$1').read())"`,
			`python3 -c "import mmap, os; f = os.open('$S/$1', os.O_RDONLY); print(mmap.mmap(f, 0, prot=mmap.PROT_READ)[:])"`, `sha256sum < $S/$1`, `wc -c $S/$1`, `dd if=$S/$1 iflag=direct 2>/dev/null`,
		}},
		{store.KindExecutable, script("echo ran $0"), []store.Kind{store.KindUnknown, store.KindExecutable}, []string{
			`$S/$1`, `test -x $S/$1`, `sh $S/$1`, `PATH=$S:$PATH; $1`,
		}},
		{store.KindSymlink, symlink("/etc/passwd"), []store.Kind{store.KindUnknown, store.KindSymlink}, []string{
			`cat $S/$1`, `readlink $S/$1`, `test -L $S/$1`, `test -f $S/$1`, `realpath $S/$1`, `stat -L -c %i $S/$1`,
			`cp -a $S/$1 $T/c && readlink $T/c`, `python3 -c "import os; print(os.readlink('$S/$1'))"`,
		}},
		{store.KindDirectory, tree, []store.Kind{store.KindUnknown, store.KindDirectory}, []string{
			`$S/$1/bin/hello`, `cat $S/$1/share/doc`, `cat $S/$1/link`, `readlink $S/$1/link`, `ls $S/$1`, `ls $S/$1/`, `cd $S/$1 && ls -a`,
			`cd $S/$1/share && pwd -P`, `test -d $S/$1`, `test -e $S/$1/nothing`, `echo $S/$1/*`, `cat $S/$1`, `PATH=$S/$1/bin:$PATH; hello`,
			`python3 -c "import os; print(sorted(os.listdir('$S/$1')), os.access('$S/$1', os.X_OK))"`,
			`python3 -c "import os; f=os.open('$S/$1', os.O_PATH); print(os.listdir('/proc/self/fd/%d' % f))"`,
			`python3 -c "import os; f=os.open('$S/$1', os.O_RDONLY|os.O_DIRECTORY); print(sorted(os.listdir(f)))"`,
		}},
	}
	// These work on all kinds.
	every := []string{
		`stat -c '%F %a %s %Y %h %u %g %i' $S/$1`, `stat -L -c '%F %a' $S/$1`, `ls -ld $S/$1`, `ls -l $S/$1`, `find $S/$1 -printf '%P %y %i\n' | sort`,
		`realpath $S/$1`, `readlink -f $S/$1`, `readlink $S/$1`, `tar -C $S -cf - $1 | tar -tvf -`, `cp -a $S/$1 $T/copy && (cd $T && find copy | sort)`,
		`test -e $S/$1`, `test -r $S/$1`, `test -L $S/$1`, `file $S/$1 2>/dev/null | wc -l`, `du -s --apparent-size $S/$1 | wc -l`,
	}
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	i := 0
	for _, o := range objects {
		for _, promised := range o.shapes {
			t.Run(fmt.Sprintf("%s promised %q", o.kind, promised), func(t *testing.T) {
				for _, c := range append(every, o.touch...) {
					i++
					n := s.add(name(i, "x"), recipe{make: o.make, promised: promised, delay: 10 * time.Millisecond})
					if strings.Contains(c, "$T") {
						c = "T=$(mktemp -d); " + c + "; R=$?; chmod -R u+w $T; rm -rf $T; exit $R"
					}
					first, err1 := sh(t, dir, c, n)
					again, err2 := sh(t, dir, c, n)
					if first != again || fmt.Sprint(err1) != fmt.Sprint(err2) {
						t.Errorf("%s\nat first %q, %v\n   later %q, %v", c, first, err1, again, err2)
					}
					if strings.Contains(first, "Stale") {
						t.Errorf("%s: %s", c, first)
					}
					// 0: of a promised object much is known without it.
					if b := s.built(n); b > 1 || b == 0 && promised == store.KindUnknown {
						t.Errorf("%s: %d builds", c, b)
					}
				}
			})
		}
	}
}

// What an object looks like, whichever way it was touched at first.
func TestWhatIsSeen(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	d := s.add(name(1, "d"), recipe{make: tree})
	must(t, dir, `stat -c '%F %a %X %Y %Z' $S/$1`, "directory 555 1 1 1", d)
	must(t, dir, `stat -c '%F %a %Y %s' $S/$1/bin/hello`, "regular file 555 1 21", d)
	must(t, dir, `stat -c '%F %a %Y %s' $S/$1/share/doc`, "regular file 444 1 4", d)
	must(t, dir, `stat -c '%F %s' $S/$1/link`, "symbolic link 9", d)
	must(t, dir, `stat -c '%u %g' $S/$1 $S/$1/link $S | sort -u`, fmt.Sprintf("%d %d", uid(), gid()), d)
	must(t, dir, `$S/$1/bin/hello; cat $S/$1/link; readlink $S/$1/link`, "hello\ndoc\nshare/doc", d)
	must(t, dir, `cat $S/$1/nothing 2>&1 | sed 's/.*: //'; cat $S/$1/share/doc/x 2>&1 | sed 's/.*: //'`,
		"No such file or directory\nNot a directory", d)
	must(t, dir, `cat $S/$1/$2 2>&1 | sed 's/.*: //'`, "File name too long", d, strings.Repeat("n", 300))
	must(t, dir, `findmnt -no FSTYPE,OPTIONS $S | grep -o 'fuse.storefs *ro,nosuid,nodev' | tr -s ' '`, "fuse.storefs ro,nosuid,nodev", d)
	for _, write := range []string{`echo > $S/$1/share/doc`, `mkdir $S/$1/x`, `rm -f $S/$1/link`, `chmod 777 $S/$1`, `touch $S/$1/bin/hello`, `mv $S/$1 $S/$1-x`} {
		if out, err := sh(t, dir, write, d); err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("%s: %q, %v", write, out, err)
		}
	}
}

// A promise that is broken ends in the truth, for callers that look again.
func TestBrokenPromise(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	for i, first := range []string{`ls $S/$1/ 2>&1 | sed 's/.*: //'`, `cat $S/$1/x 2>&1 | sed 's/.*: //'`} {
		n := s.add(name(i, "x"), recipe{make: regular("text\n"), promised: store.KindDirectory})
		must(t, dir, first, "Not a directory", n)
		must(t, dir, `cat $S/$1; stat -c %F $S/$1`, "text\nregular file", n)
	}
	n := s.add(name(2, "x"), recipe{make: regular("text\n"), promised: store.KindDirectory})
	must(t, dir, `cat $S/$1`, "text", n)
}

// fleeting is a realiser whose first object is deleted before its caller hears of it.
type fleeting struct {
	*fakeStore
	first  sync.Once
	delete func(name string)
}

func (f *fleeting) Realise(ctx context.Context, c fs.Call) error {
	err := f.fakeStore.Realise(ctx, c)
	f.first.Do(func() { f.delete(c.Name) })
	return err
}

// Who has waited for what is deleted at once looks again, and has it made again.
func TestDeletedAsSoonAsRealised(t *testing.T) {
	s := newFakeStore(t)
	f := &fleeting{fakeStore: s}
	dir, server := mount(t, s, func(o *fs.Options) { o.Realiser = f })
	f.delete = func(name string) {
		s.delete(t, name)
		server.Deleted([]string{name})
	}
	n := s.add(name(1, "x"), recipe{make: tree, promised: store.KindDirectory})
	must(t, dir, `cat $S/$1/share/doc`, "doc", n)
	if s.built(n) != 2 {
		t.Errorf("%d builds", s.built(n))
	}
}

// An object that is known to be a link needs no second look.
func TestLinkByDescriptor(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	n := s.add(name(1, "x"), recipe{make: symlink("there"), promised: store.KindSymlink, delay: 50 * time.Millisecond})
	must(t, dir, `python3 -c "
import os
f = os.open('$S/$1', os.O_PATH | os.O_NOFOLLOW)
print(os.fstat(f).st_size, os.readlink('', dir_fd=f))"`, "5 there", n)
}

// Below overlayfs ESTALE is not tried again, so the wait is in LOOKUP.
func TestWaitInLookup(t *testing.T) {
	s := newFakeStore(t)
	dir, server := mount(t, s, func(o *fs.Options) { o.WaitInLookup = true })
	for i, touch := range []string{`cat $S/$1/share/doc`, `cat $S/$1/link`, `find $S/$1/share -type f -exec cat {} +`} {
		n := s.add(name(i, "x"), recipe{make: tree, delay: 50 * time.Millisecond})
		must(t, dir, touch, "doc", n)
	}
	n := s.add(name(20, "x"), recipe{make: tree, delay: 50 * time.Millisecond})
	if uid() == 0 {
		must(t, dir, `unshare -m sh -ec '
			T=$(mktemp -d); trap "umount $T/o $T; rmdir $T" EXIT
			mount -t tmpfs none $T; mkdir $T/u $T/w $T/o
			mount -t overlay -o lowerdir=$S,upperdir=$T/u,workdir=$T/w none $T/o
			cat $T/o/$1/share/doc' sh $1`, "doc", n)
	}
	// Whoever creates does not wait for, or start, what blocks.
	b := s.begun()
	for i, create := range []string{`touch $S/$1`, `mkdir $S/$1`, `ln -T /etc/passwd $S/$1`, `echo > $S/$1`} {
		n := s.add(name(30+i, "x"), recipe{make: tree, hold: make(chan struct{})})
		if out, err := shell(t, soon, dir, create, n); err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("%s: %q, %v", create, out, err)
		}
	}
	if s.begun() != b {
		t.Errorf("%d builds begun", s.begun()-b)
	}
	// A deletion does not lock the others out while somebody waits.
	blocked := s.add(name(40, "x"), recipe{make: tree, hold: make(chan struct{})})
	_, wait := spawn(t, dir, `cat $S/$1/share/doc`, blocked)
	until(t, "it waits", func() bool { return s.waiting() == 1 })
	s.delete(t, n)
	server.Deleted([]string{n})
	time.Sleep(50 * time.Millisecond)
	for _, c := range []string{`ls $S`, `cat $S/$2/share/doc`, `cat $S/$1/share/doc`} {
		if out, err := shell(t, soon, dir, c, n, name(1, "x")); err != nil {
			t.Errorf("%s: %q, %v", c, out, err)
		}
	}
	s.finish(t)
	if err := wait(); err != nil {
		t.Error(err)
	}
}
