package fstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// oneLine checks that stderr is exactly one line that contains all of wants.
func oneLine(t *testing.T, r result, status int, wants ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d: %s", r.status, status, r.stderr)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "storefs: ") {
		t.Errorf("not one line that begins with storefs: %q", r.stderr)
	}
	for _, w := range wants {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("no %q in %q", w, r.stderr)
		}
	}
}

func TestBadInput(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `default = sh("x", "mkdir $out; echo hi > $out/f")`)
	out := l.ok("build", file)[0]
	before := strings.Join(l.ok("query", "requisites", out), "\n")
	stream := l.Dir + "/stream"
	if r := l.inShell(binary + " export $(" + binary + " query requisites " + out + ") > " + stream); r.status != 0 {
		t.Fatal(r.stderr)
	}
	whole, err := os.ReadFile(stream)
	if err != nil {
		t.Fatal(err)
	}
	l.write("cut", string(whole[:len(whole)/2]))
	l.write("0123456789abcdfghijklmnpqrsvwxyz-bad.drv", `Derive([("out","`+l.Store+`/0123456789abcdfghijklmnpqrsvwxyz-bad","","")],[],[],"x86_64-linux","/bin/sh",["-c"`)
	l.write("wrongpath.drv", `Derive([("out","`+l.Store+`/0123456789abcdfghijklmnpqrsvwxyz-wrongpath","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","`+l.Store+`/0123456789abcdfghijklmnpqrsvwxyz-wrongpath")])`)
	l.write("syntax.star", "default = derivation(\n  name = 'x'\n  builder = 3)\n")
	l.write("raises.star", "def f():\n    fail('no such thing')\nf()\n")
	l.write("d.store/in-it", "")
	l.write("store/in-the-way", "") // of a mount that should not get that far

	tests := []struct {
		name   string
		args   []string
		stdin  string
		status int
		wants  []string
	}{
		{"malformed drv", []string{"import", "0123456789abcdfghijklmnpqrsvwxyz-bad.drv"}, "", 2, []string{"bad.drv", "byte"}},
		{"drv with wrong paths", []string{"import", "wrongpath.drv"}, "", 2, []string{"wrongpath"}},
		{"truncated stream", []string{"import"}, "cut", 2, []string{"byte"}},
		{"not a stream", []string{"import"}, "a.star", 2, nil},
		{"unknown path", []string{"build", l.Store + "/00000000000000000000000000000000-nothing"}, "", 1, []string{"00000000000000000000000000000000-nothing"}},
		{"foreign path", []string{"build", "/somewhere/else"}, "", 2, []string{"/somewhere/else"}},
		{"missing file", []string{"build", "nothing.star"}, "", 2, []string{"nothing.star"}},
		{"unknown target", []string{"build", "a.star:nothing"}, "", 2, []string{"nothing", "default"}},
		{"syntax", []string{"build", "syntax.star"}, "", 2, []string{"syntax.star:3"}},
		{"unknown flag", []string{"build", "--wrong"}, "", 2, []string{"--wrong"}},
		{"no such command", []string{"buidl"}, "", 2, []string{"buidl"}},
		{"bad jobs", []string{"build", "-j", "many", "a.star"}, "", 2, []string{"many"}},
		{"negative jobs of one user", []string{"mount", "--jobs-per-uid=-2"}, "", 2, []string{"--jobs-per-uid=-2: must not be negative"}},
		{"negative memory of failures", []string{"mount", "--failure-ttl=-5s"}, "", 2, []string{"--failure-ttl=-5s: must not be negative"}},
		{"negative patience with orphans", []string{"mount", "--cancel-orphans=-1s"}, "", 2, []string{"--cancel-orphans=-1s: must not be negative"}},
		{"mount of what is not there", []string{"mount", "--sandbox-path=/in=/nonexistent"}, "", 2, []string{"--sandbox-path: /nonexistent: no such file"}},
		{"the same in the background", []string{"mount", "-b", "--sandbox-path=/nonexistent"}, "", 2, []string{"--sandbox-path: /nonexistent: no such file"}},
		{"build with what is not there", []string{"build", "--sandbox-path=/nonexistent", "a.star"}, "", 2, []string{"--sandbox-path: /nonexistent: no such file"}},
		{"a file in the place of a directory", []string{"build", "--sandbox-path=/etc=/etc/passwd", "a.star"}, "", 2, []string{"--sandbox-path: /etc is a directory in every sandbox, and /etc/passwd is none"}},
		{"a plan of what is compared", []string{"build", "--check", "--dry-run", "a.star"}, "", 2, []string{"--dry-run and --check can't be used together"}},
		{"load that is no number", []string{"build", "--load=nan", "a.star"}, "", 2, []string{"--load=NaN: must be a number that is not negative"}},
		{"load without end", []string{"build", "--load=inf", "a.star"}, "", 2, []string{"--load=+Inf: must be a number that is not negative"}},
		{"a substitute for what is below a path", []string{"substitute", out + "/f", "a.star"}, "", 2, []string{out + "/f is not a store path, but below one"}},
		{"an empty state", []string{"status", "--state", ""}, "", 2, []string{"--state", "the path is empty"}},
		{"an empty configuration", []string{"build", "--config=", "a.star"}, "", 2, []string{"--config", "the path is empty"}},
		{"an empty profile", []string{"build", "--profile=", "a.star"}, "", 2, []string{"--profile", "the path is empty"}},
		{"an empty export", []string{"mount", "--export="}, "", 2, []string{"--export", "the path is empty"}},
		{"an empty program", []string{"upgrade", ""}, "", 2, []string{"the path is empty"}},
		{"below an output", []string{"build", out + "/nonexistent"}, "", 1, []string{"build " + out + "/nonexistent: no such file"}},
		{"a file as store", []string{"--state", l.Dir + "/other", "init", "--store", l.Dir + "/a.star"}, "", 2, []string{l.Dir + "/a.star: not a directory"}},
		{"query unrealised", []string{"query", "references", l.Store + "/00000000000000000000000000000000-nothing"}, "", 1, []string{"nothing"}},
		{"outputs of an output", []string{"query", "outputs", out}, "", 2, []string{out + ": it is no store expression"}},
		{"a directory as expression", []string{"import", "d.store"}, "", 2, []string{"d.store: is a directory"}},
		{"the same to build", []string{"build", "d.store"}, "", 2, []string{"d.store: is a directory"}},
		{"a directory as stream", []string{"import", "tools"}, "", 2, []string{"tools: is a directory"}},
		{"a directory as standard input", []string{"import"}, "tools", 2, []string{"is a directory"}},
		{"no such program", []string{"upgrade", "nothing"}, "", 2, []string{"nothing: no such file"}},
		{"an argument without anything", []string{"build", "a.star", "--arg"}, "", 2, []string{`--arg: missing value, expecting "<key>=<value>"`}},
		{"a directory as program", []string{"upgrade", "tools"}, "", 2, []string{"upgrade: ", "/tools", "is a directory"}},
		{"what is no program", []string{"upgrade", "a.star"}, "", 2, []string{"upgrade: ", "/a.star", "permission denied"}},
		{"no path to hash", []string{"hash", ""}, "", 2, []string{"the path is empty"}},
		{"no path to dump", []string{"dump", ""}, "", 2, []string{"the path is empty"}},
		{"nothing to build", []string{"build", "a.star", ""}, "", 2, []string{"<installable> ...: the path is empty"}},
		{"nowhere to restore to", []string{"restore", ""}, "tools", 2, []string{"<path>: the path is empty"}},
		{"nothing to add", []string{"add", ""}, "", 2, []string{"<path> ...: the path is empty"}},
		{"a directory as archive", []string{"restore", "restored"}, "tools", 2, []string{"restore restored: ", "is a directory"}},
		{"what was never learned", []string{"prefetch", "import", "cut"}, "", 2, []string{"prefetch import cut: "}},
		{"init twice", []string{"init", "--store", l.Store}, "", 1, []string{l.State}},
		{"relative store", []string{"--state", l.Dir + "/other", "init", "--store", "store"}, "", 2, []string{"store"}},
		{"no state", []string{"--state", l.Dir + "/nothing", "query", "roots"}, "", 1, []string{l.Dir + "/nothing", "init"}},
		{"delete in use", []string{"delete", l.inputOf(out)}, "", 1, []string{"referred"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := l.command(tt.args...)
			if tt.stdin != "" {
				f, err := os.Open(filepath.Join(l.Dir, tt.stdin))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				cmd.Stdin = f
			}
			oneLine(t, run(t, cmd), tt.status, tt.wants...)
		})
	}
	t.Run("backtrace", func(t *testing.T) {
		l.fails(2, []string{"raises.star:2", "no such thing", "raises.star:3"}, "build", "raises.star")
	})
	if after := strings.Join(l.ok("query", "requisites", out), "\n"); after != before {
		t.Errorf("bad input changed the store: %s", after)
	}
	l.ok("verify", "--check-contents")
}

// What cannot be written is told by what it is on, and not by what was to be done first.
func TestReadOnlyState(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts")
	}
	l := newLab(t)
	for _, c := range []string{"query roots", "status", "mount"} {
		r := l.inShell("unshare -m --propagation private sh -c 'mount --bind " + l.State + " " + l.State + " && mount -o remount,bind,ro " + l.State + " && exec " + binary + " " + c + "'")
		oneLine(t, r, 1, "storefs: state "+l.State+": read-only file system")
	}
}

// inputOf is a path that path refers to through its derivation.
func (l *lab) inputOf(path string) string {
	l.t.Helper()
	drv := l.ok("query", "deriver", path)[0]
	for _, p := range l.ok("query", "references", drv) {
		return p
	}
	l.t.Fatalf("%s has no references", drv)
	return ""
}

func TestMountPoints(t *testing.T) {
	l := newLab(t)
	t.Run("not empty", func(t *testing.T) {
		l.write("store/file", "")
		oneLine(t, l.storefs("mount"), 1, l.Store, "empty")
		os.Remove(l.Store + "/file")
	})
	t.Run("state inside the mount", func(t *testing.T) {
		// A state directory in its own store directory.
		inner := l.Dir + "/outer"
		os.Mkdir(inner, 0o755)
		r := l.storefs("--state", inner+"/state", "init", "--store", inner)
		if r.status == 0 {
			r = l.storefs("--state", inner+"/state", "mount")
		}
		oneLine(t, r, 1, inner)
	})
	t.Run("export to where the store is", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root exports")
		}
		for _, dir := range []string{l.Store, l.Dir} {
			oneLine(t, l.storefs("mount", "--export", dir), 1, "mount "+l.Store+": export to "+dir+": ", " is in the other")
			oneLine(t, l.storefs("mount", "-b", "--export", dir), 1, "mount "+l.Store+": export to "+dir+": ", " is in the other")
		}
	})
	t.Run("twice", func(t *testing.T) {
		l.serve()
		oneLine(t, l.storefs("mount"), 1, "in use", "pid")
		l.stop()
	})
	t.Run("stale", func(t *testing.T) {
		l.serve()
		l.kill()
		if b, _ := os.ReadFile("/proc/self/mountinfo"); !strings.Contains(string(b), l.Store) {
			t.Fatal("the mount went with its server: nothing stale to replace")
		}
		l.serve()
		if _, err := os.ReadDir(l.Store); err != nil {
			t.Error(err)
		}
		l.stop()
	})
	t.Run("stale, and the state is damaged", func(t *testing.T) {
		l.serve()
		l.kill()
		whole, err := os.ReadFile(l.State + "/db.bolt")
		if err != nil {
			t.Fatal(err)
		}
		l.write("state/db.bolt", "damage")
		oneLine(t, l.storefs("umount"), 1, "umount: "+l.Store+" is cleared", "db.bolt")
		if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.Store) {
			t.Error("still mounted")
		}
		oneLine(t, l.storefs("umount"), 1, "db.bolt")
		l.write("state/db.bolt", string(whole))
	})
	t.Run("busy", func(t *testing.T) {
		l.serve()
		cmd := exec.Command("sleep", "60")
		cmd.Dir = l.Store
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		l.stop()
		if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.Store) {
			t.Error("still mounted after the end")
		}
	})
}
