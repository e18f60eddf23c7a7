package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/fs"
	"storefs/store"
)

// shapes are the promises that lead to the two shapes of placeholders.
var shapes = []store.Kind{store.KindUnknown, store.KindDirectory}

func eachShape(t *testing.T, f func(t *testing.T, promised store.Kind)) {
	for _, promised := range shapes {
		t.Run(fmt.Sprintf("promised %q", promised), func(t *testing.T) { f(t, promised) })
	}
}

func TestManyCallersOneBuild(t *testing.T) {
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		before := descriptors(t)
		hold := make(chan struct{})
		n := s.add(name(1, "x"), recipe{make: tree, promised: promised, hold: hold})
		var wg sync.WaitGroup
		wg.Go(func() {
			must(t, dir, `for i in $(seq 40); do
				cat $S/$1/share/doc & $S/$1/bin/hello >/dev/null && echo doc & test -d $S/$1/bin && echo doc &
			done | sort | uniq -c | tr -s ' '; wait`, " 120 doc", n)
		})
		until(t, "120 callers wait", func() bool { return s.waiting() >= 120 })
		close(hold)
		wg.Wait()
		if s.built(n) != 1 {
			t.Errorf("%d builds", s.built(n))
		}
		until(t, "descriptors are closed", func() bool { return descriptors(t) < before+40 })
	})
}

// While 50 names block, and 500 requests, everything else answers at once.
func TestBlockedNamesDelayNothing(t *testing.T) {
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		if err := s.put(name(0, "valid"), tree); err != nil {
			t.Fatal(err)
		}
		hold := make(chan struct{})
		const names, each = 50, 10
		for i := range names {
			s.add(name(i, "x"), recipe{make: tree, promised: promised, hold: hold})
		}
		client := startClient(t, "stat", dir, fmt.Sprint(names), fmt.Sprint(each))
		until(t, "500 requests wait", func() bool { return s.waiting() >= names*each })
		free := s.add(name(900, "x"), recipe{make: tree, promised: promised})
		for _, c := range []string{
			`ls $S`, `ls -l $S`, `stat $S/$1`, `cat $S/$1/share/doc`, `$S/$1/bin/hello`, `cat $S/$2/share/doc`,
			`mkdir $S/$3`, `touch $S/$3`, `touch $S/nothing`, `stat $S/` + name(99, "unknown"),
		} {
			shell(t, soon, dir, c, name(0, "valid"), free, name(7, "x"))
		}
		if got := s.begun(); got != names+1 {
			t.Errorf("%d builds begun", got)
		}
		close(hold)
		if out, err := client(); err != nil || out != "" {
			t.Errorf("client: %q, %v", out, err)
		}
	})
}

// System calls that create or change something start nothing and do not wait.
func TestWritesStartNothing(t *testing.T) {
	calls := `import ctypes, os, sys
p = sys.argv[1].encode()
libc = ctypes.CDLL(None, use_errno=True)
AT = -100
open(sys.argv[2], 'w').close()
how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o644, 0)
for what, call in [
	('mkdir', lambda: libc.mkdir(p, 0o755)), ('mkdirat', lambda: libc.mkdirat(AT, p, 0o755)),
	('mkdir below', lambda: libc.mkdir(p + b'/x', 0o755)),
	('mknod', lambda: libc.mknod(p, 0o10644, 0)), ('creat', lambda: libc.creat(p, 0o644)),
	('open', lambda: libc.open(p, os.O_CREAT | os.O_RDONLY, 0o644)), ('open to write', lambda: libc.open(p, os.O_RDWR)),
	('open exclusively', lambda: libc.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)),
	('open below', lambda: libc.open(p + b'/x', os.O_CREAT | os.O_WRONLY, 0o644)),
	('syscall open', lambda: libc.syscall(2, p, os.O_CREAT | os.O_WRONLY, 0o644)),
	('openat2', lambda: libc.syscall(437, AT, p, how, 24)),
	('openat2 below', lambda: libc.syscall(437, AT, p + b'/x', how, 24)),
	('symlink', lambda: libc.symlink(b'x', p)), ('link to', lambda: libc.link(sys.argv[2].encode(), p)),
	('link from', lambda: libc.link(p, p + b'-2')), ('unlink', lambda: libc.unlink(p)), ('rmdir', lambda: libc.rmdir(p)),
	('unlink below', lambda: libc.unlink(p + b'/bin/hello')),
	('rename to', lambda: libc.rename(sys.argv[2].encode(), p)), ('rename from', lambda: libc.rename(p, p + b'-2')),
	('rename below', lambda: libc.rename(p + b'/a', p + b'/b')),
	('truncate', lambda: libc.truncate(p, 0)), ('chmod', lambda: libc.chmod(p, 0o777)), ('chown', lambda: libc.chown(p, 0, 0)),
	('utime', lambda: libc.utimensat(AT, p, None, 0)), ('setxattr', lambda: libc.setxattr(p, b'user.x', b'', 0, 0)),
]:
	if call() != -1: print(what, 'succeeded')
	e = os.strerror(ctypes.get_errno())
	if e not in ('Read-only file system', 'File exists', 'Is a directory', 'Invalid cross-device link'): print(what, e)
os.unlink(sys.argv[2])
`
	needTool(t, "python3")
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		n := s.add(name(1, "x"), recipe{make: tree, promised: promised, hold: make(chan struct{})})
		file := filepath.Join(t.TempDir(), "file")
		out, err := shell(t, 10*time.Second, dir, `timeout 5 python3 -c "$1" $S/$2 $3`, calls, n, file)
		if out != "" || err != nil {
			t.Errorf("%s, %v", out, err)
		}
		for _, c := range []string{
			`mkdir $S/$1`, `mkdir $S/$1/x`, `touch $S/$1`, `echo > $S/$1`, `echo >> $S/$1/x`, `ln -T /etc/passwd $S/$1`,
			`link /etc/passwd $S/$1`, `unlink $S/$1`, `rmdir $S/$1`, `mknod $S/$1 p`, `tee $S/$1 </dev/null`, `truncate -s0 $S/$1`,
		} {
			// Not the bound of the shell: mkdir has to answer within a second.
			out, err := sh(t, dir, `timeout 1 bash -c "`+c+`"; test $? != 124`, n)
			if err != nil {
				t.Errorf("%s: %q, %v", c, out, err)
			}
		}
		if s.begun() != 0 {
			t.Errorf("%d builds begun", s.begun())
		}
	})
}

func TestListingStartsNothing(t *testing.T) {
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		want := ""
		for i := range 20 {
			s.add(name(i, "unrealised"), recipe{make: tree, promised: promised, hold: make(chan struct{})})
			if err := s.put(name(i, "valid"), tree); err != nil {
				t.Fatal(err)
			}
			want += name(i, "valid") + "\n"
		}
		want = strings.TrimSuffix(want, "\n")
		for _, c := range []string{
			`ls $S`, `ls -l $S | awk 'NR > 1 {print $NF}'`, `find $S -maxdepth 1 -mindepth 1 -printf '%f\n' | sort`,
			`cd $S && compgen -f 0`, `compgen -G "$S/*" | sed 's,.*/,,' | sort`, `cd $S && echo * | tr ' ' '\n'`,
			`find $S -name hello -printf '%P\n' | sed 's,/.*,,' | sort`,
		} {
			must(t, dir, c, want)
		}
		if s.begun() != 0 {
			t.Errorf("%d builds begun", s.begun())
		}
	})
}

// spawn starts a program in the background. The returned function waits for
// its end.
func spawn(t *testing.T, dir, script string, args ...string) (*exec.Cmd, func() error) {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-c", "exec " + script, "bash"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "S="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return cmd, func() error {
		t.Helper()
		select {
		case err := <-done:
			if out.Len() > 0 {
				t.Logf("%s: %s", script, out.Bytes())
			}
			return err
		case <-time.After(soon):
			cmd.Process.Kill()
			t.Fatalf("%s: still there", script)
			return nil
		}
	}
}

func TestKill(t *testing.T) {
	needTool(t, "python3")
	catcher := `python3 -c "
import os, signal, sys
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT): signal.signal(s, lambda n, f: os._exit(40 + n))
os.stat(sys.argv[1])" $S/$1/bin`
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		hold := make(chan struct{})
		n := s.add(name(1, "x"), recipe{make: tree, promised: promised, hold: hold})
		var waits []func() error
		var cmds []*exec.Cmd
		waiting := 0
		start := func(script string) {
			t.Helper()
			// Those that were killed have gone.
			until(t, "waiters go", func() bool { return s.waiting() == waiting })
			cmd, wait := spawn(t, dir, script, n)
			cmds, waits = append(cmds, cmd), append(waits, wait)
			until(t, "waits: "+script, func() bool { return s.waiting() == waiting+1 })
		}
		for _, touch := range []string{`cat $S/$1/share/doc`, `$S/$1/bin/hello`, `stat $S/$1`, `ls $S/$1`, `cat $S/$1/share/doc`} {
			start(touch)
			waiting++
		}
		// The first, the second, one in the middle.
		for _, i := range []int{0, 1, 3} {
			cmds[i].Process.Kill()
			if err := waits[i](); err == nil || err.Error() != "signal: killed" {
				t.Errorf("killed: %v", err)
			}
		}
		waiting = 2
		until(t, "the realiser hears of it", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.calls == 2 && errors.Is(s.ended[n], errCancelled)
		})
		for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGALRM} {
			start(`cat $S/$1/share/doc`)
			cmds[len(cmds)-1].Process.Signal(sig)
			if err := waits[len(waits)-1](); err == nil {
				t.Errorf("%v: succeeded", sig)
			}
		}
		for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
			start(catcher)
			cmds[len(cmds)-1].Process.Signal(sig)
			if err := waits[len(waits)-1](); err == nil || err.Error() != fmt.Sprintf("exit status %d", 40+sig) {
				t.Errorf("caught %v: %v", sig, err)
			}
		}
		// First a signal that must not end the wait, then one that must.
		start(`python3 -c "import os, signal, sys; signal.signal(signal.SIGUSR1, lambda n, f: None); os.stat(sys.argv[1])" $S/$1/bin`)
		cmds[len(cmds)-1].Process.Signal(unix.SIGUSR1)
		time.Sleep(150 * time.Millisecond)
		if s.waiting() != 3 {
			t.Errorf("%d callers wait after SIGUSR1", s.waiting())
		}
		cmds[len(cmds)-1].Process.Kill()
		if err := waits[len(waits)-1](); err == nil {
			t.Error("killed after SIGUSR1: succeeded")
		}
		close(hold)
		for _, i := range []int{2, 4} {
			if err := waits[i](); err != nil {
				t.Errorf("waiter %d: %v", i, err)
			}
		}
		if s.built(n) != 1 {
			t.Errorf("%d builds", s.built(n))
		}
	})
}

func TestDenied(t *testing.T) {
	comm := filepath.Join(t.TempDir(), "indexer-with-long-name")
	if err := os.Symlink(needTool(t, "cat"), comm); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Dir(comm), 0o755)
	os.Chmod(filepath.Dir(filepath.Dir(comm)), 0o755)
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		var mu sync.Mutex
		told := map[string]bool{}
		dir, _ := mount(t, s, func(o *fs.Options) {
			o.Rules = []fs.Rule{{Callers: fs.Callers{Commands: []string{"indexer-with-long-name"}, UIDs: []uint32{12345}}, Permission: fs.MayNothing, Name: "indexers"}}
			o.Denied = func(d fs.Denial) {
				mu.Lock()
				defer mu.Unlock()
				told[fmt.Sprint(d.Rule, ": ", d.Command, " ", d.UID, " ", d.PID > 0, " ", d.Name)] = true
			}
			o.AllowOther = uid() == 0
		})
		n := s.add(name(1, "x"), recipe{make: tree, promised: promised})
		want := map[string]bool{fmt.Sprint("indexers: indexer-with-lo ", uid(), " true ", n): true}
		denied := []string{comm + ` $S/$1/share/doc`}
		if uid() == 0 {
			os.Chmod(filepath.Dir(dir), 0o755)
			os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755)
			denied = append(denied, `setpriv --reuid 12345 --clear-groups cat $S/$1/share/doc`)
			want[fmt.Sprint("indexers: cat 12345 true ", n)] = true
		}
		for _, c := range denied {
			if out, err := sh(t, dir, c, n); err == nil || !strings.Contains(out, "Permission denied") {
				t.Errorf("%s: %q, %v", c, out, err)
			}
		}
		mu.Lock()
		if !maps.Equal(told, want) {
			t.Errorf("told of %v, want %v", told, want)
		}
		mu.Unlock()
		if s.begun() != 0 {
			t.Errorf("%d builds begun", s.begun())
		}
		must(t, dir, `cat $S/$1/share/doc`, "doc", n)
		for _, c := range denied {
			must(t, dir, c, "doc", n)
		}
	})
}

// The first rule decides that holds the thread, or the process that it is of, which is
// who was denied.
func TestDeniedThreads(t *testing.T) {
	needTool(t, "python3")
	s := newFakeStore(t)
	denied := make(chan fs.Denial, 10)
	rule := func(name string, p fs.Permission, c fs.Callers) fs.Rule {
		return fs.Rule{Callers: c, Permission: p, Name: name}
	}
	dir, _ := mount(t, s, func(o *fs.Options) {
		o.Rules = []fs.Rule{
			rule("cat", fs.MayBuild, fs.Callers{Commands: []string{"cat"}}),
			rule("thread", fs.MayNothing, fs.Callers{Commands: []string{"a-thread"}}),
			rule("process", fs.MayNothing, fs.Callers{Commands: []string{"a-process"}}),
			rule("all", fs.MayFetch, fs.Callers{Everyone: true}),
			rule("later", fs.MayNothing, fs.Callers{Everyone: true}),
		}
		o.Denied = func(d fs.Denial) { denied <- d }
	})
	n := s.add(name(1, "x"), recipe{make: tree, err: store.ErrNotAllowed})
	for _, c := range []struct{ process, thread, by string }{
		{"any", "a-thread", "thread"}, {"a-process", "any", "process"}, {"any", "any", "all"},
	} {
		cmd, wait := spawn(t, dir, `python3 -c "
import os, sys, threading
def name(who, comm):
	with open('/proc/' + who + '/comm', 'w') as f: f.write(comm)
def touch():
	name('thread-self', sys.argv[2])
	try: os.stat(sys.argv[1] + '/bin')
	except PermissionError: return
	os._exit(1)
name('self', sys.argv[3])
t = threading.Thread(target=touch)
t.start()
t.join()" $S/$1 $2 $3`, n, c.thread, c.process)
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		got := <-denied
		if want := (fs.Denial{Call: fs.Call{Name: n, PID: uint32(cmd.Process.Pid), UID: uint32(uid()), Command: c.process, NoBuild: c.by == "all"}, Rule: c.by}); got != want {
			t.Errorf("%+v\n%+v, want\n%+v", c, got, want)
		}
	}
	s.add(n, recipe{make: tree})
	must(t, dir, `cat $S/$1/share/doc`, "doc", n)
	if len(denied) > 0 {
		t.Errorf("denied, too: %+v", <-denied)
	}
}

func TestDeniedCgroup(t *testing.T) {
	b, err := os.ReadFile("/proc/self/cgroup")
	line, _, _ := strings.Cut(string(b), "\n")
	parts := strings.SplitN(line, ":", 3)
	if err != nil || len(parts) != 3 {
		missing(t, "no cgroups")
	}
	s := newFakeStore(t)
	dir, _ := mount(t, s, func(o *fs.Options) {
		o.Rules = []fs.Rule{{Callers: fs.Callers{Cgroups: []string{strings.Trim(parts[2], "/") + "/"}}, Permission: fs.MayNothing}}
	})
	n := s.add(name(1, "x"), recipe{make: tree})
	if out, err := sh(t, dir, `cat $S/$1/share/doc`, n); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("%q, %v", out, err)
	}
}

// What callers see of failures, at every way to touch.
func TestFailures(t *testing.T) {
	for want, err := range map[string]error{
		"Input/output error":      &store.Failure{Cause: store.CauseBuilder},
		"Connection timed out":    &store.Failure{Cause: store.CauseTimeout},
		"No route to host":        &store.Failure{Cause: store.CauseUnreachable},
		"No space left on device": &store.Failure{Cause: store.CauseNoSpace},
		"Permission denied":       store.ErrNotAllowed,
	} {
		eachShape(t, func(t *testing.T, promised store.Kind) {
			s := newFakeStore(t)
			dir, _ := mount(t, s, nil)
			n := s.add(name(1, "x"), recipe{promised: promised, err: err})
			for _, c := range []string{`cat $S/$1/share/doc`, `stat $S/$1`, `ls $S/$1`, `ls $S/$1/`, `$S/$1/bin/hello`, `cd $S/$1`} {
				if out, err := sh(t, dir, c, n); err == nil || !strings.Contains(out, want) {
					t.Errorf("%s: %q, %v, want %s", c, out, err, want)
				}
			}
			// It can still succeed.
			s.add(n, recipe{promised: promised, make: tree})
			must(t, dir, `cat $S/$1/share/doc`, "doc", n)
		})
	}
}
