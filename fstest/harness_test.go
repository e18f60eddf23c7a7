package fstest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binary is the storefs that all tests here run, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if what := os.Getenv(forbidVariable); what != "" {
		fmt.Fprintln(os.Stderr, executeForbidden(what))
		os.Exit(1)
	}
	// The race detector makes every process that ends wait for a second.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	dir, err := os.MkdirTemp("", "storefs-fstest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Chmod(dir, 0o755) // ordinary users run the binary too
	binary = filepath.Join(dir, "storefs")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "storefs/cmd/storefs")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build storefs: %v\n%s", err, out)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// need skips the test without the program, which `make deps` installs; in CI
// its absence is a failure.
func need(t testing.TB, program string) string {
	t.Helper()
	p, err := exec.LookPath(program)
	if err != nil {
		for _, dir := range []string{"/bin", "/usr/bin", "/sbin", "/usr/sbin"} {
			if _, err := os.Stat(dir + "/" + program); err == nil {
				return dir + "/" + program
			}
		}
		missing(t, program+" is not installed (make deps)")
	}
	return p
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// lab is one state directory with its store directory, which is its mount point.
type lab struct {
	t     testing.TB
	Dir   string
	State string
	Store string
	mount *exec.Cmd
	env   []string
}

func newLab(t testing.TB) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "storefs-lab-")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	l := &lab{t: t, Dir: dir, State: dir + "/state", Store: dir + "/store"}
	if err := os.Mkdir(l.Store, 0o755); err != nil {
		t.Fatal(err)
	}
	// The race detector makes every process end a second late.
	l.env = append(os.Environ(), "STOREFS_STATE="+l.State, "GORACE=atexit_sleep_ms=0")
	t.Cleanup(func() {
		l.kill()
		unix.Unmount(l.Store, unix.MNT_DETACH)
		exec.Command("chmod", "-R", "u+w", dir).Run()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	l.ok("init", "--store", l.Store)
	// The store source of all test builders: one static program.
	busybox := need(t, "busybox")
	l.write("tools/bin/busybox", "")
	l.copyFile(busybox, "tools/bin/busybox")
	for _, n := range []string{"sh", "sleep", "mkdir", "cat", "echo", "ln", "chmod", "cp", "true", "false", "seq", "touch", "tr", "test", "date", "dd", "kill"} {
		if err := os.Symlink("busybox", dir+"/tools/bin/"+n); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *lab) copyFile(from, to string) {
	l.t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(l.Dir+"/"+to, b, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Chmod(l.Dir+"/"+to, 0o755); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) write(name, content string) string {
	l.t.Helper()
	p := filepath.Join(l.Dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// star writes a Starlark file whose prelude defines sh(name, script, **kw).
func (l *lab) star(name, body string) string {
	l.t.Helper()
	return l.write(name, `tools = source("tools")
def sh(name, script, env = {}, **kw):
    return derivation(name = name, builder = tools + "/bin/sh", args = ["-euc", script], env = dict({"PATH": tools + "/bin"}, **env), **kw)
`+body)
}

type result struct {
	stdout, stderr string
	status         int
	elapsed        time.Duration
}

func (l *lab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = l.env
	cmd.Dir = l.Dir
	return cmd
}

func run(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	status := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status = 128 + int(ws.Signal())
	}
	return result{out.String(), errs.String(), status, time.Since(start)}
}

// storefs runs a command and returns what came of it.
func (l *lab) storefs(args ...string) result {
	l.t.Helper()
	return run(l.t, l.command(args...))
}

// ok runs a command that must succeed and returns its output's lines.
func (l *lab) ok(args ...string) []string {
	l.t.Helper()
	r := l.storefs(args...)
	if r.status != 0 {
		l.t.Fatalf("storefs %s: status %d\n%s%s", strings.Join(args, " "), r.status, r.stdout, r.stderr)
	}
	return strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
}

// fails runs a command that must end with status and one error line that
// contains each of wants.
func (l *lab) fails(status int, wants []string, args ...string) result {
	l.t.Helper()
	r := l.storefs(args...)
	if r.status != status {
		l.t.Errorf("storefs %s: status %d, want %d\n%s%s", strings.Join(args, " "), r.status, status, r.stdout, r.stderr)
	}
	for _, w := range wants {
		if !strings.Contains(r.stderr, w) {
			l.t.Errorf("storefs %s: no %q in %q", strings.Join(args, " "), w, r.stderr)
		}
	}
	return r
}

// outputs instantiates FILE.star:TARGET and returns the output paths of it.
func (l *lab) outputs(target string) []string {
	l.t.Helper()
	drvs := l.ok("instantiate", target)
	return l.ok(append([]string{"query", "outputs"}, drvs...)...)
}

// serve mounts the store in the foreground and returns once it is there.
func (l *lab) serve(args ...string) {
	l.t.Helper()
	log, err := os.OpenFile(l.Dir+"/mount.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	l.mount = l.command(append([]string{"mount"}, args...)...)
	l.mount.Stdout, l.mount.Stderr = log, log
	if err := l.mount.Start(); err != nil {
		l.t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for !l.mounted() {
		if time.Now().After(deadline) || l.mount.ProcessState != nil {
			b, _ := os.ReadFile(l.Dir + "/mount.log")
			l.t.Fatalf("the mount did not come: %s", b)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (l *lab) mounted() bool {
	_, err := os.Stat(l.Store + "/.storefs/status")
	return err == nil
}

// kill ends all that serves the mount at once, as a power failure would: the
// server and what would start it again. The mount is stale then.
func (l *lab) kill() {
	// All stand still before the first dies: none sees another's death.
	// What has forked looks like a server until it has become another program: it
	// may stand still by then, and would for ever.
	var all []int
	for more := true; more; {
		more = false
		for _, pid := range append(l.serving(false), l.serving(true)...) {
			if !slices.Contains(all, pid) {
				unix.Kill(pid, unix.SIGSTOP)
				all, more = append(all, pid), true
			}
		}
	}
	for _, pid := range all {
		unix.Kill(pid, unix.SIGKILL)
	}
	if l.mount != nil {
		l.mount.Process.Kill()
		l.mount.Wait()
		l.mount = nil
	}
}

// serving finds the processes that serve the mount: its holders, or its
// servers.
func (l *lab) serving(holders bool) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, _ := os.ReadFile(dir + "/cmdline")
		name, rest, _ := strings.Cut(string(args), "\x00")
		if rest, _, _ = strings.Cut(rest, "\x00"); rest != "mount" || (name == "storefs-holder") != holders {
			continue
		}
		env, _ := os.ReadFile(dir + "/environ")
		if strings.Contains("\x00"+string(env), "\x00STOREFS_STATE="+l.State+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// server is the one process that serves the mount, once there is one.
func (l *lab) server() int {
	l.t.Helper()
	var pids []int
	waitFor(l.t, "one server", func() bool {
		pids = l.serving(false)
		return len(pids) == 1
	})
	return pids[0]
}

// stop ends the server as an administrator would.
func (l *lab) stop() {
	l.t.Helper()
	l.mount.Process.Signal(unix.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- l.mount.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			b, _ := os.ReadFile(l.Dir + "/mount.log")
			l.t.Errorf("mount ended: %v\n%s", err, b)
		}
	case <-time.After(time.Minute):
		l.t.Error("mount did not end within a minute of SIGTERM")
		l.mount.Process.Kill()
		<-done
	}
	l.mount = nil
}

// inShell runs a script that sees $STORE and $STATE, for two minutes at most.
func (l *lab) inShell(script string) result {
	l.t.Helper()
	return l.inShellWithin(2*time.Minute, script)
}

func (l *lab) inShellWithin(limit time.Duration, script string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(l.env, "STORE="+l.Store)
	cmd.Dir = l.Dir
	r := run(l.t, cmd)
	if ctx.Err() != nil {
		r.stderr += fmt.Sprintf("killed after %v\n", limit)
	}
	return r
}

// together runs n functions at once and waits for all.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
