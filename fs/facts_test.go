package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/fs"
	"storefs/store"
)

// attrs is a client in Python that shows extended attributes of its arguments.
const attrs = `python3 -c "
import os, sys
for p in sys.argv[1:]:
	for follow in (True, False):
		try: names = os.listxattr(p, follow_symlinks=follow)
		except OSError as e: print(e.strerror); continue
		print(' '.join(n + '=' + os.getxattr(p, n, follow_symlinks=follow).decode() for n in names) or 'none')
" `

func TestFacts(t *testing.T) {
	needTool(t, "python3")
	needTool(t, "getfattr")
	for _, promised := range []store.Kind{store.KindUnknown, store.KindDirectory, store.KindRegular, store.KindSymlink} {
		t.Run(fmt.Sprintf("promised %q", promised), func(t *testing.T) {
			s := newFakeStore(t)
			dir, _ := mount(t, s, nil)
			n := s.add(name(1, "x"), recipe{make: tree, promised: promised, hold: make(chan struct{})})
			const unrealised = "user.storefs.state=unrealised"
			asked := func() {
				t.Helper()
				must(t, dir, attrs+`$S/$1 $S/$1`, strings.TrimSuffix(strings.Repeat(unrealised+"\n", 4), "\n"), n)
				must(t, dir, `getfattr --absolute-names -d $S/$1 | grep ^user; getfattr --absolute-names -h -n user.storefs.state --only-values $S/$1`,
					"user.storefs.state=\"unrealised\"\nunrealised", n)
				must(t, dir, `cat $S/.storefs/info/$1`, "state: unrealised", n)
			}
			asked()
			if s.begun() != 0 {
				t.Fatalf("%d builds begun", s.begun())
			}
			_, wait := spawn(t, dir, `ls $S/$1`, n)
			until(t, "it waits", func() bool { return s.waiting() == 1 })
			asked()
			s.finish(t)
			if err := wait(); promised != store.KindRegular && promised != store.KindSymlink && err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFactsOfObjects(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	d, f := name(1, "d"), name(2, "f")
	if err := s.put(d, tree); err != nil {
		t.Fatal(err)
	}
	if err := s.put(f, regular("x")); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{d, f} {
		line := "user.storefs.state=realised user.storefs.text=words of " + n
		must(t, dir, attrs+`$S/$1`, line+"\n"+line, n)
		must(t, dir, `cat $S/.storefs/info/$1`, "state: realised\ntext: words of "+n, n)
		must(t, dir, `python3 -c "import os; print(len(os.getxattr('$S/$1', 'user.storefs.long')))"`, "30000", n)
		// There is room for a name that comes while somebody asks, as of the first use.
		need, err := unix.Listxattr(filepath.Join(dir, n), nil)
		if err != nil {
			t.Fatal(err)
		}
		if is, err := unix.Listxattr(filepath.Join(dir, n), make([]byte, need)); err != nil || is+len("user.storefs.last-use")+1 > need {
			t.Errorf("%d bytes of names, room for %d: %v", is, need, err)
		}
	}
	// Inner files, the root and the control directory have none; nobody has
	// others.
	must(t, dir, attrs+`$S/$1/bin/hello $S/$1/bin $S $S/.storefs $S/.storefs/status | sort -u`, "Operation not supported", d)
	must(t, dir, `python3 -c "
import os
for p in '$S/$1', '$S/$1/bin', '$S/.storefs', '$S':
	for n in 'user.storefs.state', 'user.storefs.nothing', 'user.other', 'security.capability', 'trusted.overlay.opaque', 'system.posix_acl_access':
		try: print(n, os.getxattr(p, n).decode())
		except OSError as e: print(n, e.strerror)
" | sort | uniq -c | tr -s ' '`, ` 4 security.capability Operation not supported
 4 system.posix_acl_access Operation not supported
 4 trusted.overlay.opaque Operation not supported
 1 user.other No data available
 3 user.other Operation not supported
 1 user.storefs.nothing No data available
 3 user.storefs.nothing Operation not supported
 3 user.storefs.state Operation not supported
 1 user.storefs.state realised`, d)
	for _, bad := range []string{name(9, "unknown"), "bad", ""} {
		if out, err := sh(t, dir, `cat $S/.storefs/info/$1`, bad); err == nil {
			t.Errorf("%q: %q", bad, out)
		}
	}
}

// What is inside of an object is there only when the object is.
func TestInnerAttributesWait(t *testing.T) {
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		n := s.add(name(1, "x"), recipe{make: tree, promised: promised, delay: 50 * time.Millisecond})
		must(t, dir, attrs+`$S/$1/bin/hello; cat $S/$1/share/doc`, "Operation not supported\nOperation not supported\ndoc", n)
		n = s.add(name(2, "x"), recipe{make: tree, promised: promised, delay: 50 * time.Millisecond})
		must(t, dir, `getfattr -d $S/$1/bin/hello 2>&1 | grep -o "Operation not supported"; cat $S/$1/share/doc`, "Operation not supported\ndoc", n)
	})
}

// Many who only ask, and many who touch, do not disturb each other.
func TestFactsBesideTouches(t *testing.T) {
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		marks := t.TempDir()
		stop := filepath.Join(marks, "stop")
		for i := range 3 {
			s.add(name(i+1, "x"), recipe{make: tree, promised: promised, hold: make(chan struct{})})
		}
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				must(t, dir, `python3 -c "
import os, sys
names = sys.argv[2:]
seen = set()
more = True
while more:
	more = not os.path.exists(sys.argv[1]) # all are realised then, and asked once more
	for n in names:
		seen.add(os.getxattr('$S/' + n, 'user.storefs.state').decode())
		seen.update(os.listxattr('$S/' + n, follow_symlinks=False))
	open(sys.argv[1] + '$2', 'w').close()
print(sorted(seen))
" $1 $3 $4 $5`, "['realised', 'unrealised', 'user.storefs.state', 'user.storefs.text']", stop, fmt.Sprint(i), name(1, "x"), name(2, "x"), name(3, "x"))
			})
		}
		for i := range 3 {
			all.Go(func() {
				must(t, dir, `for i in $(seq 10); do
					cat $S/$1/share/doc & $S/$1/bin/hello & ls -d $S/$1/bin | grep -o bin & (cd $S/$1 && echo in) &
				done | sort | uniq -c | tr -s ' '; wait`, " 10 bin\n 10 doc\n 10 hello\n 10 in", name(i+1, "x"))
			})
		}
		until(t, "all wait", func() bool { return s.waiting() == 120 })
		until(t, "all have asked", func() bool {
			list, err := filepath.Glob(stop + "?")
			return err == nil && len(list) == 3
		})
		s.finish(t)
		if err := os.WriteFile(stop, nil, 0o644); err != nil {
			t.Error(err)
		}
		all.Wait()
		for i := range 3 {
			if b := s.built(name(i+1, "x")); b != 1 {
				t.Errorf("%d builds", b)
			}
		}
	})
}

// Programs that ask everything for attributes it does not have ask once.
func TestAttributeRequests(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	n := name(1, "x")
	if err := s.put(n, func(p string) error {
		err := os.Mkdir(p, 0o755)
		for i := range 100 {
			err = regular("x")(filepath.Join(p, fmt.Sprint(i)))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		script string
		most   int // GETXATTR and LISTXATTR
	}{
		{`ls -l $S/$1`, 2}, {`ls -l $S/$1`, 2}, {`find $S/$1 -ls`, 0}, {`tar cf /dev/null -C $S $1`, 0}, {`cp -r $S/$1 $T`, 0}, {`cp -a $S/$1 $T`, 210}, {`cat $S/$1/*`, 0},
	} {
		t.Run(c.script, func(t *testing.T) {
			got := requests(t, dir, "T=$(mktemp -d); "+c.script+" >/dev/null; R=$?; chmod -R u+w $T; rm -rf $T; exit $R", n)
			t.Log(got)
			if sum := got["GETXATTR"] + got["LISTXATTR"]; sum > c.most {
				t.Errorf("%d requests for attributes", sum)
			}
		})
	}
}

// A use is told when an object is looked up, and not again soon, and not of those
// who only index.
func TestUsed(t *testing.T) {
	s := newFakeStore(t)
	var mu sync.Mutex
	uses := map[string]int{}
	dir, _ := mount(t, s, func(o *fs.Options) {
		o.Used = func(name string) {
			mu.Lock()
			defer mu.Unlock()
			uses[name]++
		}
		o.Rules = []fs.Rule{{Callers: fs.Callers{Commands: []string{"tail"}}, Permission: fs.MayFetch}}
	})
	d := s.add(name(1, "d"), recipe{make: tree})
	if err := s.put(name(2, "d"), tree); err != nil {
		t.Fatal(err)
	}
	must(t, dir, `ls $S | wc -l`, "1")
	cmd, wait := spawn(t, dir, `tail -f $S/$1/share/doc`, name(2, "d"))
	until(t, "it is open", func() bool {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
		return slices.ContainsFunc(fds, func(fd string) bool {
			to, _ := os.Readlink(fd)
			return strings.HasSuffix(to, name(2, "d")+"/share/doc")
		})
	})
	// Who has ended when its use is told counts: so not before the one after the next
	// use was told, which come in this order.
	e := s.add(name(3, "d"), recipe{make: tree})
	for _, n := range []string{d, e} {
		must(t, dir, `for i in $(seq 5); do cat $S/$1/share/doc; stat $S/$1 $S/$1/bin >/dev/null; done | uniq`, "doc", n)
		until(t, "the use is told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return uses[n] > 0
		})
	}
	cmd.Process.Kill()
	wait()
	mu.Lock()
	defer mu.Unlock()
	// More than once only because the placeholder was looked up before.
	if uses[d] > 3 || uses[e] > 3 || len(uses) != 2 {
		t.Errorf("%v", uses)
	}
}
