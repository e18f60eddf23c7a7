package fstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stuck starts n callers that wait for a build which never ends.
func (l *lab) stuck(path string, n int) []*exec.Cmd {
	l.t.Helper()
	var cmds []*exec.Cmd
	for range n {
		cmd := exec.Command("ls", path)
		if err := cmd.Start(); err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { cmd.Process.Kill() })
		cmds = append(cmds, cmd)
	}
	waitFor(l.t, "callers", func() bool { return len(l.waiters()) == n })
	return cmds
}

// Each way to end a mount ends all of it at once, whoever waits: the callers
// get an error, and neither a process nor a mount is left.
func TestEndsWhileCallersWait(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(l *lab)
	}{
		{"umount", func(l *lab) {
			l.ok("umount")
			if n := len(l.serving(true)) + len(l.serving(false)); n != 0 {
				l.t.Errorf("%d processes are left", n)
			}
		}},
		{"umount, while the holder is slow", func(l *lab) {
			holder := l.serving(true)[0]
			unix.Kill(holder, unix.SIGSTOP)
			umount := l.command("umount")
			if err := umount.Start(); err != nil {
				l.t.Fatal(err)
			}
			waitFor(l.t, "the end of the server", func() bool { return len(l.serving(false)) == 0 })
			unix.Kill(holder, unix.SIGCONT)
			if err := umount.Wait(); err != nil {
				l.t.Error(err)
			}
			if n := len(l.serving(true)); n != 0 {
				l.t.Errorf("%d holders are left", n)
			}
		}},
		{"SIGTERM", func(l *lab) { l.mount.Process.Signal(unix.SIGTERM) }},
		{"SIGINT to the server", func(l *lab) { unix.Kill(l.server(), unix.SIGINT) }},
		{"SIGTERM to all", func(l *lab) {
			for _, pid := range append(l.serving(true), l.serving(false)...) {
				unix.Kill(pid, unix.SIGTERM)
			}
		}},
		{"SIGTERM after a kill", func(l *lab) {
			unix.Kill(l.server(), unix.SIGKILL)
			l.mount.Process.Signal(unix.SIGTERM)
		}},
		{"umount(8)", func(l *lab) {
			if err := unix.Unmount(l.Store, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
				l.t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "umount(8)" && os.Getuid() != 0 {
				t.Skip("umount needs root")
			}
			l := newLab(t)
			l.messages()
			body, _ := l.held("gate", "mkdir $out")
			gate := l.outputs(l.star("a.star", body) + ":gate")[0]
			l.serve(l.gates())
			callers := l.stuck(gate, 5)
			began := time.Now()
			c.end(l)
			for _, cmd := range callers {
				if err := cmd.Wait(); err == nil {
					t.Error("a caller succeeded")
				}
			}
			l.mount.Wait()
			l.mount = nil
			waitFor(t, "the end of all", func() bool { return len(l.serving(true))+len(l.serving(false)) == 0 })
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
			if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.Store) {
				t.Error("still mounted")
			}
			l.noOrphans(0)
			// Nothing is left that keeps the next one from its place.
			l.serve()
			l.stop()
		})
	}
}

// A mount that somebody is in ends like any other, and one line says so.
func TestEndsInUse(t *testing.T) {
	l := newLab(t)
	l.serve()
	in := exec.Command("sleep", "60")
	in.Dir = l.Store
	if err := in.Start(); err != nil {
		t.Fatal(err)
	}
	defer in.Wait()
	defer in.Process.Kill()
	l.ok("umount")
	l.mount.Wait()
	l.mount = nil
	log, _ := os.ReadFile(l.Dir + "/mount.log")
	if want := "storefs: " + l.Store + " was unmounted; who is in it still gets errors from now on\n"; !strings.HasSuffix(string(log), want) || strings.Count(string(log), "\n") != 1 {
		t.Errorf("%q, want %q", log, want)
	}
}

// Two states cannot have one mount point at the same time.
func TestOneMountPointTwoStates(t *testing.T) {
	l := newLab(t)
	second := *l
	k := &second
	k.State = l.Dir + "/state2"
	k.env = append(os.Environ(), "STOREFS_STATE="+k.State)
	k.ok("init", "--store", l.Store)
	l.serve()
	oneLine(t, k.storefs("mount"), 1, l.Store, "already a mount point", "storefs")
	other := "umount: " + l.Store + " is not mounted by this state"
	oneLine(t, k.storefs("umount"), 1, other)
	if n := len(k.serving(true)) + len(k.serving(false)); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	// Also not while the server of the first is dead.
	holder := l.serving(true)[0]
	unix.Kill(holder, unix.SIGSTOP)
	unix.Kill(l.server(), unix.SIGKILL)
	oneLine(t, k.storefs("mount"), 1, l.Store, "already a mount point", "storefs")
	oneLine(t, k.storefs("umount"), 1, other)
	oneLine(t, l.storefs("mount"), 1, l.State, "in use")
	unix.Kill(holder, unix.SIGCONT)
	l.ok("status")
	if _, err := os.Stat(l.Store + "/.storefs/status"); err != nil {
		t.Errorf("the first is mounted no more: %v", err)
	}
	l.stop()
	k.serve()
	k.stop()
}

// A mount that a process in another mount namespace uses ends for everybody
// else. Who is in that namespace goes on to the server's end, and gets errors
// then, not silence.
func TestBusyInAnotherNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test makes mount namespaces, which needs root")
	}
	l := newLab(t)
	l.messages()
	out := l.ok("build", l.star("a.star", `default = sh("x", "mkdir $out; echo x > $out/file")`))[0]
	l.serve()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	other := exec.CommandContext(ctx, "unshare", "-m", "--propagation", "private", "bash", "-c",
		`cd $0; echo in; read x; cat file; cat $0/nothing; true`, out)
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	shown, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	other.Stderr = &errs
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := shown.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	l.killServer() // it survives for them, too
	l.stop()
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.Store) {
		t.Error("still mounted")
	}
	if n := len(l.serving(true)) + len(l.serving(false)); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	log, _ := os.ReadFile(l.Dir + "/mount.log")
	if n := strings.Count(string(log), l.Store); n != 1 || !strings.Contains(string(log), "storefs: "+l.Store+" was unmounted; who is in it still gets errors from now on\n") {
		t.Errorf("not one line of what became of it: %s", log)
	}
	fmt.Fprintln(in)
	if err := other.Wait(); err != nil || !strings.Contains(errs.String(), "Transport endpoint is not connected") {
		t.Errorf("%v: %s", err, errs.String())
	}
	l.serve()
	l.stop()
}

// A server that stands still for a while, as all do while the machine sleeps,
// is waited for; and so is its holder.
func TestStandstill(t *testing.T) {
	l := newLab(t)
	l.messages()
	body, release := l.held("gate", "mkdir $out; echo gate > $out/file")
	gate := l.outputs(l.star("a.star", body) + ":gate")[0]
	l.serve(l.gates())
	_, done := l.touch("cat", gate+"/file")
	waitFor(t, "a caller", func() bool { return len(l.waiters()) == 1 })
	var all []int
	// What has forked, and not yet become another program, looks like them.
	waitFor(t, "a server and a holder", func() bool {
		all = append(l.serving(true), l.serving(false)...)
		return len(all) == 2
	})
	for _, pid := range all {
		unix.Kill(pid, unix.SIGSTOP)
	}
	_, later := l.touch("ls", gate)
	release()
	time.Sleep(1500 * time.Millisecond)
	for _, pid := range all {
		unix.Kill(pid, unix.SIGCONT)
	}
	done()
	later()
	if now := append(l.serving(true), l.serving(false)...); fmt.Sprint(now) != fmt.Sprint(all) {
		t.Errorf("processes %v became %v", all, now)
	}
	l.stop()
}

// Callers that wait cannot be frozen before their wait ends: the kernel has no
// place for that. What they called succeeds all the same, without EINTR, and
// then they are.
func TestFrozenCallers(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test makes a cgroup, which needs root")
	}
	hierarchy := t.TempDir()
	if err := unix.Mount("none", hierarchy, "cgroup2", 0, ""); err != nil {
		missing(t, "no cgroups of version 2: "+err.Error())
	}
	defer unix.Unmount(hierarchy, unix.MNT_DETACH)
	group, err := os.MkdirTemp(hierarchy, "storefs-frozen-")
	if err != nil {
		missing(t, "no cgroup can be made: "+err.Error())
	}
	defer func() {
		waitFor(t, "the end of the cgroup", func() bool { return unix.Rmdir(group) == nil })
	}()
	set := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(group+"/"+file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(group + "/cgroup.freeze"); err != nil {
		missing(t, "no freezer: "+err.Error())
	}
	l := newLab(t)
	l.messages()
	body, release := l.held("gate", "mkdir $out; echo gate > $out/file")
	gate := l.outputs(l.star("a.star", body) + ":gate")[0]
	l.serve(l.gates())
	pid, done := l.touch(need(t, "python3"), "-c", `
import os, sys
os.stat(sys.argv[1]) # once, without trying again
print(open(sys.argv[1] + "/file").read())`, gate)
	waitFor(t, "a caller", func() bool { return len(l.waiters()) == 1 })
	set("cgroup.procs", fmt.Sprint(pid))
	set("cgroup.freeze", "1")
	defer os.WriteFile(group+"/cgroup.freeze", []byte("0"), 0o644)
	time.Sleep(300 * time.Millisecond)
	if len(l.waiters()) != 1 {
		t.Error("who was to be frozen waits no more")
	}
	l.killServer() // the next one is asked by it as well
	waitFor(t, "the caller again", func() bool { return len(l.waiters()) == 1 })
	release()
	waitFor(t, "it is frozen", func() bool {
		b, _ := os.ReadFile(group + "/cgroup.events")
		return strings.Contains(string(b), "frozen 1")
	})
	set("cgroup.freeze", "0")
	done()
	l.stop()
}
