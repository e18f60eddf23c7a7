package fstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/daemon"
	"storefs/event"
	"storefs/normaliser"
)

// begin starts a command whose messages go to a file; said is what is in it by now.
func (l *lab) begin(args ...string) (cmd *exec.Cmd, stdout *bytes.Buffer, said func() string) {
	l.t.Helper()
	messages, err := os.CreateTemp(l.Dir, "messages")
	if err != nil {
		l.t.Fatal(err)
	}
	defer messages.Close()
	stdout = &bytes.Buffer{}
	cmd = l.command(args...)
	cmd.Stdout, cmd.Stderr = stdout, messages
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, stdout, func() string {
		b, _ := os.ReadFile(messages.Name())
		return string(b)
	}
}

// Who goes on although a build fails, and who watches, see the end of its log at once,
// and who goes on does not see it twice.
func TestEndOfALogIsShownAtOnce(t *testing.T) {
	l := newLab(t)
	held, release := l.held("held", "mkdir $out")
	fails, fail := l.held("fails", "echo last words; exit 3")
	file := l.star("a.star", held+fails)
	building, _, said := l.begin("build", "-k", "-j2", l.gates(), file+":held", file+":fails")
	waitFor(t, "both run", func() bool { return strings.Contains(strings.Join(l.ok("status"), "\n"), "goals: 2 running") })
	watching := l.command("status", "--watch")
	out, err := watching.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watching.Process.Kill(); watching.Wait() })
	seen := bufio.NewScanner(out)
	if !seen.Scan() { // the present state: what comes is seen
		t.Fatal("status --watch shows nothing")
	}
	fail()
	for seen.Scan() && seen.Text() != "  last words" {
	}
	if seen.Text() != "  last words" {
		t.Error("who watches does not see it")
	}
	waitFor(t, "the end of the log", func() bool { return strings.Contains(said(), "\n  last words\n") })
	if s := said(); !strings.Contains(s, "failed fails: ") || strings.Contains(s, "storefs: ") {
		t.Errorf("said %q", s)
	}
	release()
	building.Wait()
	if got := building.ProcessState.ExitCode(); got != 100 {
		t.Errorf("exit status %d", got)
	}
	s := said()
	if strings.Count(s, "last words") != 1 || !strings.Contains(s, "storefs why ") {
		t.Errorf("said %q", s)
	}
}

// What is counted when a build is interrupted stands in its result, too.
func TestCountsOfTheInterrupted(t *testing.T) {
	l := newLab(t)
	held, _ := l.held("held", "mkdir $out")
	file := l.star("a.star", held+`bad = sh("bad", "exit 7")`+"\n")
	cmd, stdout, said := l.begin("build", "-k", "-j2", "--json", l.gates(), file+":held", file+":bad")
	waitFor(t, "the failure", func() bool { return strings.Contains(said(), "failed bad: builder sh failed with exit status 7") })
	cmd.Process.Signal(unix.SIGINT)
	cmd.Wait()
	var res normaliser.Result
	if err := json.Unmarshal(stdout.Bytes(), &res); err != nil || res.Counts.Failed != 1 {
		t.Errorf("%v, %s", err, stdout)
	}
	if got := cmd.ProcessState.ExitCode(); got != 130 || !strings.Contains(said(), "storefs: 1 failed in ") {
		t.Errorf("exit status %d, %q", got, said())
	}
}

// What failed is told before what had begun beside it has ended, and once.
func TestFailureIsToldAtOnce(t *testing.T) {
	l := newLab(t)
	held, release := l.held("held", "mkdir $out")
	file := l.star("a.star", held+`bad = sh("bad", "exit 7")`+"\n")
	cmd, _, said := l.begin("build", "-j2", l.gates(), file+":held", file+":bad")
	failure := "-bad.drv: builder sh failed with exit status 7\n"
	waitFor(t, "the failure", func() bool { return strings.Contains(said(), failure) })
	waitFor(t, "the wait for the other one", func() bool {
		return strings.HasSuffix(said(), "storefs: done; waiting for builds that had begun: held (an interrupt cancels them)\n")
	})
	release()
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 100 || strings.Count(said(), failure) != 1 {
		t.Errorf("exit status %d, %q", got, said())
	}
}

// While an owner waits for what it has begun, others can look at it, and end it; who has
// something else to do waits.
func TestOwnerIsSeenToItsEnd(t *testing.T) {
	l := newLab(t)
	held, _ := l.held("held", "mkdir $out")
	file := l.star("a.star", held+`bad = sh("bad", "exit 7")
other = sh("other", "mkdir $out")
`)
	held, out := file+":held", l.outputs(file + ":held")[0]
	ending, _, said := l.begin("build", "-j2", l.gates(), held, file+":bad")
	waitFor(t, "the wait for what was begun", func() bool { return strings.Contains(said(), "waiting for builds that had begun: held") })
	// One that came after the owner's end would watch the next.
	watching := l.command("status", "--watch")
	shown, err := watching.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watching.Process.Kill() })
	watched, err := bufio.NewReader(shown).ReadString('\n')
	if err != nil || !strings.Contains(watched, "owned by storefs build ") {
		t.Fatalf("watched %q, %v", watched, err)
	}
	following, log, _ := l.begin("log", "--follow", held)
	waiting, built, waits := l.begin("build", file+":other")
	waitFor(t, "who waits", func() bool {
		return strings.Contains(waits(), "storefs: waiting for the process that has the store open")
	})
	if status := l.ok("status"); !strings.Contains(strings.Join(status, "\n"), "goals: 1 running") {
		t.Errorf("status %q", status)
	}
	if ended := l.ok("cancel", held); len(ended) != 1 || !strings.HasSuffix(ended[0], "-held.drv") {
		t.Errorf("cancelled %q", ended)
	}
	for cmd, want := range map[*exec.Cmd]int{ending: 100, watching: 0, following: 0, waiting: 0} {
		if cmd.Wait(); cmd.ProcessState.ExitCode() != want {
			t.Errorf("%q: %v, want exit status %d", cmd.Args, cmd.ProcessState, want)
		}
	}
	if log.String() != "" || !strings.HasSuffix(built.String(), "-other\n") {
		t.Errorf("log %q, built %q", log, built)
	}
	if _, err := os.Lstat(l.State + "/real/" + filepath.Base(out)); err == nil {
		t.Error("what was cancelled is there")
	}
}

// A build goes on when the process that has the store open is killed, be it the server of
// a mount or another command, or when that command is interrupted, as one is twice whose
// terminal is closed; and it tells of all of it.
func TestBuildOutlivesTheOwner(t *testing.T) {
	for _, how := range []string{"a mount", "a command is killed", "a command is interrupted"} {
		t.Run(how, func(t *testing.T) {
			l := newLab(t)
			held, release := l.held("held", "mkdir $out")
			other, _ := l.held("other", "mkdir $out")
			file := l.star("a.star", held+other+`first = sh("first", "mkdir $out")
last = sh("last", "mkdir $out", env = {"first": first, "held": held})
`)
			end := l.killServer
			if how == "a mount" {
				l.serve(l.gates())
			} else {
				owner, _, ownerSaid := l.begin("build", "-j3", l.gates(), file+":other")
				waitFor(t, "the owner", func() bool { _, err := os.Stat(l.State + "/socket"); return err == nil })
				end = func() {
					if how == "a command is interrupted" {
						owner.Process.Signal(unix.SIGHUP)
						waitFor(t, "the owner's end", func() bool { return strings.Contains(ownerSaid(), "waiting for other commands") })
						owner.Process.Signal(unix.SIGHUP)
					} else {
						owner.Process.Kill()
					}
					owner.Wait()
					if how == "a command is interrupted" && !strings.HasSuffix(ownerSaid(), "\nstorefs: interrupted\n") {
						t.Errorf("the owner: %q", ownerSaid())
					}
				}
			}
			cmd, stdout, said := l.begin("build", "-j3", "--json", "--explain", "--profile=trace.json", l.gates(), file+":first", file+":last")
			waitFor(t, "what is built first", func() bool { return strings.Contains(said(), "built first") })
			waitFor(t, "the other build", func() bool { return strings.Contains(l.storefs("status").stdout, "-held.drv (build)") })
			end()
			release()
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v: %s", err, said())
			}
			var res normaliser.Result
			if err := json.Unmarshal(stdout.Bytes(), &res); err != nil || res.Counts != (event.Counts{Built: 3}) {
				t.Errorf("%v, %s", err, stdout)
			}
			for _, want := range []string{"storefs: the process that had the store open has ended; going on with another one\n", "\nstorefs: 3 built in ", "\ncritical path: 2 of the goals"} {
				if strings.Count(said(), want) != 1 {
					t.Errorf("not once %q: %s", want, said())
				}
			}
			if trace, err := os.ReadFile(l.Dir + "/trace.json"); err != nil || strings.Count(string(trace), `"outcome":"built"`) != 3 {
				t.Errorf("%v: %s", err, trace)
			}
		})
	}
}

// A limit is that of the command that it was given to, and not of another one that waits
// for the same build.
func TestLimitOfAnother(t *testing.T) {
	l := newLab(t)
	held, release := l.held("held", "mkdir $out")
	l.serve(l.gates())
	file := l.star("a.star", held+`first = sh("first", "mkdir $out")
top = sh("top", "mkdir $out", env = {"first": first, "held": held})
`)
	strict, _, saidStrict := l.begin("build", "--timeout=5s", file+":held")
	waitFor(t, "the build", func() bool { return strings.Contains(l.storefs("status").stdout, "-held.drv (build)") })
	patient, stdout, said := l.begin("build", "--json", file+":top")
	ended := make(chan struct{})
	go func() {
		_ = strict.Wait()
		close(ended)
	}()
	waitFor(t, "both commands", func() bool {
		select {
		case <-ended: // before the other one had come, on a busy machine: it builds by itself then
			return true
		default:
			return len(l.waiters()) == 2
		}
	})
	<-ended
	if got := strict.ProcessState.ExitCode(); got != 101 {
		t.Errorf("exit status %d: %s", got, saidStrict())
	}
	release()
	if err := patient.Wait(); err != nil {
		t.Errorf("%v: %s", err, said())
	}
	var res normaliser.Result
	if err := json.Unmarshal(stdout.Bytes(), &res); err != nil || res.Counts != (event.Counts{Built: 3}) {
		t.Errorf("%v, %s", err, stdout)
	}
}

// What nobody reads keeps no command from its end when it is interrupted.
func TestInterruptedUnread(t *testing.T) {
	l := newLab(t)
	held, _ := l.held("loud", "mkdir $out")
	file := l.star("a.star", strings.Replace(held, "until", "for i in $(seq 2000); do echo "+strings.Repeat("x", 100)+"; done; until", 1))
	for i, c := range []struct {
		args   []string
		status int
	}{
		{[]string{"build", "-L", l.gates(), file}, 130}, // by itself
		{[]string{"build", "-L", l.gates(), file}, 130},
		{[]string{"status", "--watch", "-L"}, 0},
		{[]string{"status", "--watch", "--json", "-L"}, 0},
		{[]string{"instantiate", l.star("print.star", "[print(100 * \"x\") for _ in range(2000)]\n")}, 130},
	} {
		if i == 1 {
			l.serve(l.gates())
		}
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			cmd := l.command(c.args...)
			cmd.Stdout, cmd.Stderr = write, write
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill() })
			write.Close()
			if c.args[0] == "status" {
				waitFor(t, "the status", func() bool { return buffered(t, read) > 0 })
				builds, _, _ := l.begin("build", l.gates(), file)
				defer func() {
					builds.Process.Signal(unix.SIGINT)
					builds.Wait()
				}()
			}
			waitFor(t, fmt.Sprint("the pipe of ", c.args), func() bool { return buffered(t, read) > 1<<16-4096 })
			cmd.Process.Signal(unix.SIGINT)
			if c.args[0] == "instantiate" {
				cmd.Process.Signal(unix.SIGTERM) // that it was interrupted waits for a reader, too
			}
			awaitEnd(t, cmd, c.status)
		})
	}
}

// Nor is what other commands are waited for with.
func TestOwnerInterruptedUnread(t *testing.T) {
	l := newLab(t)
	loud, _ := l.held("loud", "mkdir $out")
	other, _ := l.held("other", "mkdir $out")
	file := l.star("a.star", strings.Replace(loud, "until", "for i in $(seq 2000); do echo "+strings.Repeat("x", 100)+"; done; until", 1)+other)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	owner := l.command("build", "-j2", "-L", l.gates(), file+":loud")
	owner.Stdout, owner.Stderr = write, write
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { owner.Process.Kill() })
	write.Close()
	waitFor(t, "the pipe", func() bool { return buffered(t, read) > 1<<16-4096 })
	guest, _, _ := l.begin("build", l.gates(), file+":other")
	waitFor(t, "both commands", func() bool { return len(l.waiters()) == 2 })
	owner.Process.Signal(unix.SIGINT)
	waitFor(t, "the owner, who takes nobody else", func() bool {
		c, err := daemon.Dial(t.Context(), l.State+"/socket", false)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, daemon.ErrClosing)
	})
	owner.Process.Signal(unix.SIGINT)
	awaitEnd(t, owner, 130)
	guest.Process.Signal(unix.SIGINT)
	guest.Wait()
}

// awaitEnd waits for a command, which is to end with status.
func awaitEnd(t *testing.T, cmd *exec.Cmd, status int) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	waitFor(t, fmt.Sprint("the end of ", cmd.Args), func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("%v: exit status %d, want %d", cmd.Args, got, status)
	}
}

// Whoever watches ends by a signal, also while another command uses its process.
func TestWatchInterruptedAsOwner(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `default = sh("long", "sleep 1000")`+"\n")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	// What it says has to wait, and others can come.
	full, err := unix.FcntlInt(write.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write.Write(make([]byte, full)); err != nil {
		t.Fatal(err)
	}
	watch := l.command("status", "--watch")
	messages, err := os.Create(l.Dir + "/messages")
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Close()
	watch.Stdout, watch.Stderr = write, messages
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watch.Process.Kill() })
	write.Close()
	waitFor(t, "the owner", func() bool { _, err := os.Stat(l.State + "/socket"); return err == nil })
	guest, _, _ := l.begin("build", file)
	waitFor(t, "the build", func() bool { return strings.Contains(l.storefs("status").stdout, "-long.drv (build)") })
	if _, err := io.ReadFull(read, make([]byte, full)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the wait for the build", func() bool {
		b, _ := os.ReadFile(messages.Name())
		return strings.Contains(string(b), "waiting for other commands")
	})
	watch.Process.Signal(unix.SIGINT)
	awaitEnd(t, watch, 0)
	guest.Process.Signal(unix.SIGINT)
	guest.Wait()
}

// Whoever watches keeps nobody from having the store open, and sees who comes, also where
// the kernel lets nobody else watch a directory.
func TestWatchOfNobody(t *testing.T) {
	t.Run("woken", func(t *testing.T) { testWatchOfNobody(t, func(*exec.Cmd) {}) })
	t.Run("not woken", func(t *testing.T) {
		testWatchOfNobody(t, func(watch *exec.Cmd) {
			sh, err := exec.LookPath("sh")
			if err != nil {
				t.Fatal(err)
			}
			watch.Path, watch.Args = sh, append([]string{"sh", "-euc", `echo 0 >/proc/sys/user/max_inotify_instances; exec "$@"`, "sh"}, watch.Args...)
			watch.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			}
			if err := exec.Command("unshare", "-Ur", "sh", "-c", "echo 0 >/proc/sys/user/max_inotify_instances").Run(); err != nil {
				t.Skip("there is no user namespace to limit that in: ", err)
			}
		})
	})
}

func testWatchOfNobody(t *testing.T, adapt func(watch *exec.Cmd)) {
	l := newLab(t)
	out, err := os.Create(l.Dir + "/watched")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	watch := l.command("status", "--watch")
	watch.Stdout, watch.Stderr = out, out
	adapt(watch)
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watch.Process.Kill() })
	shows := func(what string) {
		t.Helper()
		waitFor(t, what, func() bool {
			b, _ := os.ReadFile(out.Name())
			return strings.Contains(string(b), what)
		})
	}
	shows("nobody serves it")
	file := l.star("a.star", `first = sh("first", "mkdir $out")`+"\n"+`second = sh("second", "mkdir $out")`+"\n")
	l.serve()
	shows("owned by storefs mount")
	l.ok("build", file+":first")
	shows("built first")
	l.stop()
	l.serve()
	waitFor(t, "the second one", func() bool {
		b, _ := os.ReadFile(out.Name())
		return strings.Count(string(b), "owned by storefs mount") == 2
	})
	l.ok("build", file+":second")
	shows("built second")
	watch.Process.Signal(unix.SIGINT)
	if err := watch.Wait(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(out.Name()); strings.Count(string(b), "nobody serves it") != 1 {
		t.Errorf("%s", b)
	}
}
