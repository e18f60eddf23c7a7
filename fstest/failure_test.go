package fstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A lookup began the build; who joined it wants to see what it leaves, and is told where.
func TestKeepFailedOfWhatALookupBegan(t *testing.T) {
	l := newLab(t)
	l.messages()
	body, release := l.held("fails", "echo left > file; exit 7")
	file := l.star("a.star", body)
	out := l.outputs(file + ":fails")[0]
	l.serve(l.gates())
	lookup := l.stuck(out, 1)[0]
	build := make(chan result, 1)
	cmd := l.command("build", "--keep-failed", file+":fails")
	go func() { build <- run(t, cmd) }()
	waitFor(t, "both", func() bool { return len(l.waiters()) == 2 })
	release()
	r := <-build
	if err := lookup.Wait(); err == nil {
		t.Error("the lookup succeeded")
	}
	kept, _ := filepath.Glob(l.State + "/builds/kept-*")
	if len(kept) != 1 || r.status != 100 || !strings.Contains(r.stderr, "kept: "+kept[0]+"\n") {
		t.Fatalf("exit status %d, kept %q: %s", r.status, kept, r.stderr)
	}
	if b, err := os.ReadFile(kept[0] + "/build/file"); string(b) != "left\n" {
		t.Errorf("%q, %v", b, err)
	}
	l.stop()
}

func TestFailingBuild(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
broken = sh("broken", "echo first line; sleep 1; echo the last words >&2; exit 7")
middle = sh("middle", "cat $in; mkdir $out", env = {"in": broken.out})
top = sh("top", "cat $in; mkdir $out", env = {"in": middle.out})
`)
	top := l.outputs(file + ":top")[0]
	l.serve()
	events := l.watch()

	together(20, func(int) {
		if _, err := os.Stat(top); errno(err) != syscall.EIO {
			t.Errorf("stat: %v, want EIO", err)
		}
	})
	if n := events().count("started", "broken"); n != 1 {
		t.Errorf("the failing builder ran %d times, want once", n)
	}

	cliWhy := strings.Join(l.ok("why", top), "\n")
	mountWhy, err := os.ReadFile(l.Store + "/.storefs/why/" + filepath.Base(top))
	if err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{cliWhy, string(mountWhy)} {
		for _, want := range []string{"/bin/sh", "exit status: 7", "first line", "the last words", "-top", "-middle", "-broken"} {
			if !strings.Contains(why, want) {
				t.Errorf("no %q in:\n%s", want, why)
			}
		}
	}
	log, err := os.ReadFile(l.Store + "/.storefs/log/" + filepath.Base(l.ok("instantiate", file+":broken")[0]))
	if err != nil || !strings.Contains(string(log), "the last words") {
		t.Errorf("log: %q, %v", log, err)
	}

	// The ban: the next lookups fail at once and start nothing.
	fastest := time.Hour
	for range 10 {
		start := time.Now()
		if _, err := os.Stat(top); errno(err) != syscall.EIO {
			t.Errorf("stat: %v, want EIO", err)
		}
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 10*time.Millisecond {
		t.Errorf("a banned lookup took %v at best, want less than 10 ms", fastest)
	}
	if n := events().count("started", "broken"); n != 1 {
		t.Errorf("the failing builder ran %d times in spite of the ban", n)
	}
	// An explicit build asks again.
	l.fails(100, []string{"broken"}, "build", top)
	if n := events().count("started", "broken"); n != 2 {
		t.Errorf("storefs build did not ask again: %d runs", n)
	}
}

func TestBanEndsWithSuccessfulBuild(t *testing.T) {
	l := newLab(t)
	// The builder depends on something outside that the test can mend.
	flag := l.Dir + "/outside"
	if err := os.Mkdir(flag, 0o755); err != nil {
		t.Fatal(err)
	}
	file := l.star("a.star", `default = sh("moody", "test -e /outside/mended; mkdir $out; echo ok > $out/file")`)
	out := l.outputs(file)[0]
	l.serve("--failure-ttl=1h", "--sandbox-path=/outside="+flag)
	if _, err := os.ReadFile(out + "/file"); errno(err) != syscall.EIO {
		t.Fatalf("read: %v, want EIO", err)
	}
	if err := os.WriteFile(flag+"/mended", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(out + "/file"); errno(err) != syscall.EIO {
		t.Fatalf("read during the ban: %v, want EIO", err)
	}
	l.ok("build", out)
	if b, err := os.ReadFile(out + "/file"); err != nil || string(b) != "ok\n" {
		t.Errorf("read after storefs build: %q, %v", b, err)
	}
	if r := l.storefs("why", out); r.status != 0 || strings.Contains(r.stdout, "exit status") {
		t.Errorf("why still tells of the failure: %s", r.stdout)
	}
}

// What somebody asks in a way of his own, and is refused or given up for, is no
// failure of the path for others.
func TestNoBanByAnothersQuestion(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
c = sh("c", "mkdir $out")
slow = sh("slow", "sleep 1; mkdir $out")
`)
	c, slow := l.outputs(file + ":c")[0], l.outputs(file + ":slow")[0]
	l.serve("--failure-ttl=1h")
	l.fails(1, []string{"nothing to compare with"}, "build", "--check", file+":c")
	if why := strings.Join(l.ok("why", c), "\n"); strings.Contains(why, "compare") {
		t.Errorf("why: %s", why)
	}
	l.fails(101, []string{"timed out"}, "build", "--timeout=100ms", file+":slow")
	if why := strings.Join(l.ok("why", slow), "\n"); !strings.Contains(why, "timed out") {
		t.Errorf("why: %s", why)
	}
	for _, p := range []string{c, slow} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
}

func TestErrnos(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
slow = sh("slow", "sleep 100; mkdir $out")
wrong = sh("wrong", "echo hello > $out", kind = "regular", hash_algo = "sha256", hash_mode = "flat", hash = "0000000000000000000000000000000000000000000000000000000000000000")
missing = sh("missing", "true")
kind = sh("kind", "echo > $out", kind = "directory")
alien = sh("alien", "mkdir $out", system = "pdp11-unix")
`)
	want := map[string]syscall.Errno{"wrong": syscall.EIO, "missing": syscall.EIO, "kind": syscall.EIO, "alien": syscall.EIO}
	outs := map[string]string{"slow": l.outputs(file + ":slow")[0]}
	for name := range want {
		outs[name] = l.outputs(file + ":" + name)[0]
	}
	l.serve("--timeout=1s")
	if _, err := os.Stat(outs["slow"]); errno(err) != syscall.ETIMEDOUT {
		t.Errorf("slow: %v, want %v", err, syscall.ETIMEDOUT)
	}
	l.stop()
	l.serve("--deny-command=cp") // and with a time that is long enough for the others
	for name, e := range want {
		if _, err := os.Stat(outs[name]); errno(err) != e {
			t.Errorf("%s: %v, want %v", name, err, e)
		}
	}
	if _, err := os.Stat(l.Store + "/00000000000000000000000000000000-nothing"); errno(err) != syscall.ENOENT {
		t.Errorf("unknown path: %v", err)
	}
	if _, err := os.Stat(l.Store + "/not a store name"); errno(err) != syscall.ENOENT {
		t.Errorf("malformed name: %v", err)
	}
	if err := os.WriteFile(l.Store+"/new", nil, 0o644); errno(err) != syscall.EROFS {
		t.Errorf("write: %v, want EROFS", err)
	}
	if err := os.Mkdir(l.Store+"/new", 0o755); errno(err) != syscall.EROFS {
		t.Errorf("mkdir: %v, want EROFS", err)
	}
	b, err := exec.Command("cp", "-r", outs["slow"], l.Dir+"/copy").CombinedOutput()
	if err == nil || !strings.Contains(string(b), "Permission denied") {
		t.Errorf("an excluded command: %v %s", err, b)
	}
}

func errno(err error) syscall.Errno {
	for err != nil {
		if e, ok := err.(syscall.Errno); ok {
			return e
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	return 0
}

func TestKeepGoing(t *testing.T) {
	for _, keep := range []bool{false, true} {
		name := map[bool]string{false: "stop", true: "keep-going"}[keep]
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			mark := filepath.Base(l.Dir)
			bad, fail := l.held("bad", "exit 1 # "+mark)
			gate, release := l.held("gate", "mkdir $out # "+mark)
			file := l.star("a.star", bad+gate+`
good = [gate] + [sh("good-%d" % i, "mkdir $out") for i in range(4)]
later = [sh("later-%d" % i, "mkdir $out", env = {"in": gate.out}) for i in range(4)]
needsbad = [sh("needsbad-%d" % i, "mkdir $out", env = {"in": bad.out}) for i in range(3)]
all = sh("all", "mkdir $out", env = {"deps": " ".join([str(d) for d in later + needsbad + good])})
`)
			valid := func(target string) (n int) {
				for _, o := range l.outputs(file + ":" + target) {
					if l.storefs("query", "info", o).status == 0 {
						n++
					}
				}
				return n
			}
			cmd := l.command("build", "-j8", l.gates(), file+":all")
			if keep {
				cmd.Args = append(cmd.Args, "-k")
			}
			said, err := os.Create(l.Dir + "/said")
			if err != nil {
				t.Fatal(err)
			}
			defer said.Close()
			cmd.Stderr = said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			// It fails when nothing else can start, and what runs ends when that is known.
			waitFor(t, "all that can be built at once", func() bool { return builders(mark) == 2 && valid("good") == 4 })
			fail()
			waitFor(t, "the failure", func() bool {
				b, _ := os.ReadFile(said.Name())
				return keep || strings.Contains(string(b), "waiting for builds that had begun: gate")
			})
			release()
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 100 {
				b, _ := os.ReadFile(said.Name())
				t.Errorf("%v, want exit status 100: %s", cmd.ProcessState, b)
			}
			// What ran beside the failing builder ends well in either case;
			// what had not started is built with -k only.
			later := 0
			if keep {
				later = 4
			}
			for target, want := range map[string]int{"good": 5, "bad": 0, "needsbad": 0, "later": later, "all": 0} {
				if got := valid(target); got != want {
					t.Errorf("%s: %d of %s are valid, want %d", name, got, target, want)
				}
			}
		})
	}
}

// After a failure, the command says what it waits for, and an interrupt ends that.
func TestFailureBesideWhatRuns(t *testing.T) {
	l := newLab(t)
	body, _ := l.held("beside", "mkdir $out")
	file := l.star("a.star", body+`bad = sh("bad", "exit 3")`)
	cmd := l.command("build", "-j2", l.gates(), file+":bad", file+":beside")
	said, err := os.Create(l.Dir + "/said")
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	waitFor(t, "a word of what it waits for", func() bool {
		b, _ := os.ReadFile(said.Name())
		return strings.Contains(string(b), "waiting for builds that had begun: beside")
	})
	cmd.Process.Signal(syscall.SIGINT)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 100 {
		t.Errorf("%v, want exit status 100", cmd.ProcessState)
	}
	if outs, _ := filepath.Glob(l.State + "/real/*-beside"); len(outs) > 0 {
		t.Errorf("built: %v", outs)
	}
}
