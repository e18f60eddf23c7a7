package fstest

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"storefs/event"
)

// learnable has a program, in and outside of the store, which reads the files
// it is given one after the other; and outputs that are not built as long as
// the file "hold" is there.
func learnable(t *testing.T) (l *lab, mount []string, prog string, outs []string) {
	t.Helper()
	l = newLab(t)
	outside := l.Dir + "/outside"
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	file := l.star("a.star", `
prog = sh("prog", "mkdir -p $out/bin; cp $tool $out/bin/busybox", env = {"tool": tools + "/bin/busybox"})
outs = [sh("step-" + n, "while test -e /outside/hold; do sleep 0.01; done; mkdir $out; echo > $out/file") for n in ["a", "b", "c", "d"]]
`)
	mount = []string{"-j5", "--prefetch-jobs=3", "--sandbox-path=/outside=" + outside}
	return l, mount, l.ok("build", file+":prog")[0] + "/bin/busybox", l.outputs(file + ":outs")
}

func (l *lab) hold(on bool) {
	l.t.Helper()
	err := os.Remove(l.Dir + "/outside/hold")
	if on {
		err = os.WriteFile(l.Dir+"/outside/hold", nil, 0o644)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// steps is the program at work on outs.
func steps(prog string, outs []string) *exec.Cmd {
	return exec.Command(prog, append([]string{"sh", "-c", `for f in "$@"; do read x < $f/file || exit; done`, "sh"}, outs...)...)
}

type running struct {
	Running []struct {
		Goal       string
		Background bool
	}
}

// background is which goals run, with a "+" behind those in the background.
func (l *lab) background() []string {
	l.t.Helper()
	var r running
	if err := json.Unmarshal([]byte(strings.Join(l.ok("status", "--json"), "\n")), &r); err != nil {
		l.t.Fatal(err)
	}
	var goals []string
	for _, g := range r.Running {
		_, name, _ := strings.Cut(strings.TrimSuffix(g.Goal, ".drv"), "-")
		if _, n, ok := strings.Cut(name, "step-"); ok {
			name = n
		}
		if g.Background {
			name += "+"
		}
		goals = append(goals, name)
	}
	slices.Sort(goals)
	return goals
}

// waitRunning waits until exactly these goals run; see background.
func (l *lab) waitRunning(what string, want ...string) {
	l.t.Helper()
	defer func() {
		if l.t.Failed() {
			log, _ := os.ReadFile(l.Dir + "/mount.log")
			l.t.Logf("running: %v\nwaiters: %s\nlearned: %s\nthe server's messages: %s", l.background(),
				l.ok("status"), l.ok("prefetch", "export"), log)
		}
	}()
	waitFor(l.t, what, func() bool { return slices.Equal(l.background(), want) })
}

// What a program used one after the other is built side by side when it begins
// again and it is no longer there: once each, and in the background.
func TestPrefetch(t *testing.T) {
	l, mount, prog, outs := learnable(t)
	l.serve(mount...)
	if b, err := steps(prog, outs).CombinedOutput(); err != nil {
		t.Fatalf("the first run: %v %s", err, b)
	}
	l.ok(append([]string{"delete"}, outs...)...)

	events := l.watch()
	l.hold(true)
	again := steps(prog, outs)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "b+", "c+", "d+"}
	l.waitRunning("the later steps to be built with the first", want...)
	if text := strings.Join(l.ok("status"), "\n"); strings.Count(text, " in the background") != 3 {
		t.Errorf("status:\n%s", text)
	}
	l.hold(false)
	if err := again.Wait(); err != nil {
		t.Errorf("the second run: %v", err)
	}
	e := events()
	for _, name := range []string{"a", "b", "c", "d"} {
		if n := e.built("step-" + name); n != 1 {
			t.Errorf("step %s was built %d times in the second run", name, n)
		}
	}
	if e.count(event.Dropped, "") > 0 {
		t.Error("something was given up")
	}

	// Another machine can know it, too.
	learned := l.write("learned", strings.Join(l.ok("prefetch", "export"), "\n"))
	other := newLab(t)
	if got := other.ok("prefetch", "export"); got[0] != "" {
		t.Errorf("a new store has learned %q", got)
	}
	other.fails(2, []string{"malformed store path"}, "prefetch", "import", learned) // of another store directory
	text := strings.Join(l.ok("prefetch", "export"), "\n")
	moved := other.write("learned", strings.ReplaceAll(text, l.Store, other.Store))
	if got := other.ok("prefetch", "import", moved); got[0] != "1" {
		t.Errorf("imported: %q", got)
	}
	if got := strings.Join(other.ok("prefetch", "export"), "\n"); !strings.Contains(got, "step-d") || strings.Contains(got, l.Store) {
		t.Errorf("exported again: %s", got)
	}
	if got := other.ok("prefetch", "import", moved); got[0] != "0" {
		t.Errorf("imported again: %q", got)
	}

	// Another mount knows it still; and another program knows nothing.
	l.ok(append([]string{"delete"}, outs...)...)
	l.stop()
	l.serve(mount...)
	l.hold(true)
	stranger := steps(l.Dir+"/tools/bin/busybox", outs)
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	l.waitRunning("the first step of another program", "a")
	again = steps(prog, outs)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	l.waitRunning("the later steps after a restart", want...)
	l.hold(false)
	for _, cmd := range []*exec.Cmd{again, stranger} {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", cmd.Args, err)
		}
	}
}

// Who may start nothing teaches nothing, and has nothing prefetched.
func TestPrefetchObeysPolicies(t *testing.T) {
	l, mount, prog, outs := learnable(t)
	l.ok(append([]string{"build"}, outs...)...)
	l.serve(append(mount, "--deny-command=busybox")...)
	if b, err := steps(prog, outs).CombinedOutput(); err != nil {
		t.Fatalf("what is realised can be used: %v %s", err, b)
	}
	l.ok(append([]string{"delete"}, outs...)...)
	if b, err := steps(prog, outs).CombinedOutput(); err == nil || !strings.Contains(string(b), "Permission denied") {
		t.Errorf("a denied command: %v %s", err, b)
	}
	if got := l.background(); len(got) > 0 {
		t.Errorf("it started %v", got)
	}
	l.stop()
	l.serve(mount...)
	events := l.watch()
	if b, err := steps(prog, outs[:1]).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, b)
	}
	if n := events().started(); n != 1 {
		t.Errorf("%d goals started, want the one that was touched: it has learned from a denied command", n)
	}
	// Nor does anybody learn without the option.
	l.stop()
	l.serve(mount[0], mount[2])
	if b, err := steps(prog, outs).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, b)
	}
	l.ok(append([]string{"delete"}, outs...)...)
	l.stop()
	l.serve(mount...)
	l.hold(true)
	cmd := steps(prog, outs)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.waitRunning("the first step", "a")
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	l.hold(false)
}
