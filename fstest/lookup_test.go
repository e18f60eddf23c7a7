package fstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestHundredProcessesOneBuilder(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
default = sh("shared", "sleep 1; mkdir $out; echo hello > $out/file")
`)
	out := l.outputs(file)[0]
	l.serve()
	events := l.watch()
	var failed atomic.Int32
	together(100, func(i int) {
		cmd := exec.Command("cat", out+"/file")
		if i%2 == 1 {
			cmd = exec.Command("ls", out)
		}
		if b, err := cmd.CombinedOutput(); err != nil {
			failed.Add(1)
			t.Logf("%v: %v: %s", cmd.Args, err, b)
		}
	})
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of 100 processes failed", n)
	}
	if n := events().built("shared"); n != 1 {
		t.Errorf("the builder ran %d times, want once", n)
	}
}

func TestBlockedLookupsDelayNothing(t *testing.T) {
	l := newLab(t)
	body, _ := l.held("never", "mkdir $out")
	gate, release := l.held("gate", "mkdir $out")
	file := l.star("a.star", body+gate+`
ready = sh("ready", "mkdir $out; echo ready > $out/file")
slow = [sh("slow-%d" % i, "until test -e /gates/gate; do sleep 0.2; done; echo %d > $out" % i, kind = "regular") for i in range(50)]
`)
	ready := l.ok("build", file+":ready")[0]
	slow := l.outputs(file + ":slow")
	never := l.outputs(file + ":never")[0]
	l.serve("-j", "50", l.gates())
	events := l.watch()

	var cats []*exec.Cmd
	for _, p := range slow {
		cmd := exec.Command("cat", p)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cats = append(cats, cmd)
	}
	waitFor(t, "50 builders to run", func() bool { return events().started() == 50 })

	// While they block: what is realised answers, and create-like calls on an
	// unrealised name neither wait nor start anything nor hold the root up.
	for range 20 {
		if _, err := os.Stat(ready + "/file"); err != nil {
			t.Error(err)
		}
		if r := l.inShell("for c in mkdir touch; do timeout 60 $c " + never + "; test $? != 124 || exit; done; ls $STORE >/dev/null"); r.status != 0 {
			t.Fatalf("status %d: %s", r.status, r.stderr)
		}
	}
	release()
	for i, cmd := range cats {
		if err := cmd.Wait(); err != nil {
			t.Errorf("cat %s: %v", slow[i], err)
		}
	}
	if events().startedGoal("never") {
		t.Error("mkdir or touch of an unrealised name started its build")
	}
}

func TestListingStartsNothing(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `default = [sh("quiet-%d" % i, "mkdir $out") for i in range(5)]`)
	outs := l.outputs(file)
	l.serve()
	events := l.watch()
	r := l.inShell(`set -e
ls -l $STORE >/dev/null; ls -la $STORE/ >/dev/null; find $STORE -maxdepth 1 >/dev/null
compgen -f $STORE/ >/dev/null; echo $STORE/* >/dev/null; df $STORE >/dev/null; du -s --max-depth=0 $STORE/.storefs/status > /dev/null
python3 -c 'import os,sys; os.listdir(sys.argv[1]); list(os.scandir(sys.argv[1]))' $STORE`)
	if r.status != 0 {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	if n := events().started(); n != 0 {
		t.Errorf("listing started %d builds", n)
	}
	names := l.inShell("ls -a $STORE").stdout
	for _, o := range outs {
		if strings.Contains(names, filepath.Base(o)) {
			t.Errorf("%s is listed, but not realised", o)
		}
	}
	if strings.Contains(names, ".storefs") {
		t.Error("the control directory is listed")
	}
}

func TestWaitersCanBeKilled(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `default = [sh("d", "sleep 100; mkdir $out"), sh("f", "sleep 100; echo > $out", kind = "regular")]`)
	outs := l.outputs(file)
	l.serve()
	for _, out := range outs {
		for _, argv := range [][]string{{"cat", out}, {"stat", out}, {"ls", out + "/"}, {"readlink", out}, {"sh", "-c", "exec " + out}} {
			// The first waiter of the name, then a later one beside it.
			first, second := exec.Command(argv[0], argv[1:]...), exec.Command(argv[0], argv[1:]...)
			for _, cmd := range []*exec.Cmd{first, second} {
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(200 * time.Millisecond) // both wait by then
			for _, cmd := range []*exec.Cmd{second, first} {
				start := time.Now()
				cmd.Process.Kill()
				cmd.Wait()
				if d := time.Since(start); d > 30*time.Second {
					t.Errorf("%v took %v to die of SIGKILL", argv, d)
				}
			}
		}
	}
}

// Whoever touches a path first does not wait until there is somebody to make
// sandboxes.
func TestMountIsPreparedForBuilds(t *testing.T) {
	l := newLab(t)
	l.serve()
	parent := fmt.Sprintf("\nPPid:\t%d\n", l.server())
	waitFor(t, "a spawner of the mount, of which nothing was touched", func() bool {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		return slices.ContainsFunc(dirs, func(dir string) bool {
			args, _ := os.ReadFile(dir + "/cmdline")
			status, _ := os.ReadFile(dir + "/status")
			return strings.HasPrefix(string(args), "storefs-spawner\x00") && strings.Contains(string(status), parent)
		})
	})
	// It keeps nothing of the mount: not by what its own program is mapped from, either.
	l.stop()
	if log, _ := os.ReadFile(l.Dir + "/mount.log"); strings.Contains(string(log), "in use") {
		t.Errorf("the mount ended with:\n%s", log)
	}
}

// Every kind of output works at the first touch by every common way to touch
// it: each cell gets an output of its own.
func TestFirstTouch(t *testing.T) {
	kinds := map[string]struct{ script, kind string }{
		"directory": {"mkdir -p $out/bin; cp $tool $out/bin/prog; echo x > $out/file", "directory"},
		"program":   {"cp $tool $out", "executable"},
		"file":      {"echo x > $out", "regular"},
		"symlink":   {"ln -s $target $out", "symlink"},
	}
	touches := map[string]map[string]string{
		"directory": {
			"exec": "(exec -a busybox $P/bin/prog true)", "cat": "cat $P/file", "stat": "test $(stat -c %F $P) = directory", "readlink": "! readlink $P",
			"ls": "ls $P | grep file", "ls -l": "ls -ld $P | grep ^dr-x", "find": "find $P -name file | grep file", "tar": "tar cf - -C $STORE ${P##*/} | tar t | grep file",
			"cp -a": "cp -a $P copy-$N && test -f copy-$N/file", "cd": "cd $P && test -f file", "realpath": "test $(realpath $P) = $P", "test -d": "test -d $P", "glob": "ls $P/*/prog",
		},
		"program": {
			"exec": "(exec -a busybox $P true)", "cat": "cat $P > /dev/null", "stat": "test \"$(stat -c %F $P)\" = 'regular file'", "ls": "ls $P", "ls -l": "ls -l $P | grep ^-r-xr-xr-x",
			"tar": "tar cf - -C $STORE ${P##*/} | tar tv | grep -- ^-r-x", "cp -a": "cp -a $P copy-$N && test -x copy-$N && ! test -L copy-$N", "test -x": "test -x $P", "find": "find $P -type f | grep .",
		},
		"file": {
			"cat": "test $(cat $P) = x", "stat": "test $(stat -c %s $P) = 2", "stat -L": "test $(stat -L -c %s $P) = 2", "ls": "ls $P", "readlink": "! readlink $P", "find": "find $P -type f | grep .",
			"tar": "tar cf - -C $STORE ${P##*/} | tar tv | grep ^-r--", "cp -a": "cp -a $P copy-$N && test -f copy-$N && ! test -L copy-$N", "test -f": "test -f $P", "redirect": "read a < $P && test $a = x",
		},
		"symlink": {
			"cat": "cat $P/file", "readlink": "test $(readlink $P) = $TARGET", "stat": "test \"$(stat -c %F $P)\" = 'symbolic link'", "stat -L": "test $(stat -L -c %F $P) = directory",
			"ls": "ls $P/ | grep file", "ls -l": "ls -l $P | grep -- '->'", "find": "find $P -type l | grep .", "tar": "tar cf - -C $STORE ${P##*/} | tar tv | grep ^l", "cp -a": "cp -a $P copy-$N && test -L copy-$N",
			"exec": "(exec -a busybox $P/bin/prog true)", "realpath": "test $(realpath $P) = $TARGET",
		},
	}
	l := newLab(t)
	var body strings.Builder
	body.WriteString(`target = sh("target", "mkdir -p $out/bin; cp $tool $out/bin/prog; echo x > $out/file", env = {"tool": tools + "/bin/busybox"})` + "\n")
	type cell struct{ name, kind, how, script string }
	var cells []cell
	for kind, hows := range touches {
		for how, script := range hows {
			name := fmt.Sprintf("c%d-%s", len(cells), kind)
			fmt.Fprintf(&body, "c%d = sh(%q, %q, kind = %q, env = {\"tool\": tools + \"/bin/busybox\", \"target\": target.out})\n", len(cells), name, kinds[kind].script, kinds[kind].kind)
			cells = append(cells, cell{name, kind, how, script})
		}
	}
	file := l.star("a.star", body.String())
	target := l.outputs(file + ":target")[0]
	outs := map[string]string{}
	for i, c := range cells {
		outs[c.name] = l.outputs(fmt.Sprintf("%s:c%d", file, i))[0]
	}
	l.serve()
	for i, c := range cells {
		t.Run(c.kind+"/"+c.how, func(t *testing.T) {
			r := l.inShell(fmt.Sprintf("P=%s TARGET=%s N=%d; %s", outs[c.name], target, i, c.script))
			if r.status != 0 {
				t.Errorf("%s: status %d\n%s%s", c.script, r.status, r.stdout, r.stderr)
			}
		})
	}
}
