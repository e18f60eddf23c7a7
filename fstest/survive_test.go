package fstest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// messages are those of the mount's processes, when the test fails.
func (l *lab) messages() {
	l.t.Cleanup(func() {
		if l.t.Failed() {
			log, _ := os.ReadFile(l.Dir + "/mount.log")
			l.t.Logf("the mount's messages:\n%s", log)
		}
	})
}

// killServer kills the server, and returns when the next one answers.
func (l *lab) killServer() {
	l.t.Helper()
	dead := l.server()
	unix.Kill(dead, unix.SIGKILL)
	waitFor(l.t, "the next server", func() bool { return l.server() != dead })
	l.ok("status")
}

// inhabitant is a process that lives in the mount: its working directory and
// open files are there, and it tells what it sees whenever it is asked.
type inhabitant struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func inhabit(t *testing.T, dir string) *inhabitant {
	t.Helper()
	h := &inhabitant{t: t, cmd: exec.Command(need(t, "python3"), "-c", `
import os, sys
os.chdir(sys.argv[1])
f = open("file"); d = os.open(".", os.O_RDONLY)
for line in sys.stdin:
    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    f.seek(0)
    print(os.getcwd(), os.fstat(f.fileno()).st_ino, os.stat("file").st_ino, os.stat(".").st_ino, os.stat("..").st_ino,
        os.stat(".").st_dev, repr(f.read()[:20]), os.listdir(d), os.listdir("."), os.path.exists("nothing"), flush=True)
`, dir)}
	in, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.in, h.out = in, bufio.NewReader(out)
	h.cmd.Stderr = t.Output()
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.cmd.Process.Kill(); h.cmd.Wait() })
	return h
}

func (h *inhabitant) sees() string {
	h.t.Helper()
	fmt.Fprintln(h.in)
	line, err := h.out.ReadString('\n')
	if err != nil {
		h.t.Fatalf("the process in the mount: %v", err)
	}
	return line
}

// builders is how many builders run whose script has this text.
func builders(text string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); bytes.Contains(b, []byte("\x00-euc\x00")) && bytes.Contains(b, []byte(text)) {
			n++
		}
	}
	return n
}

// The server is killed while 50 callers wait for five builds. They go on
// waiting, each build begins anew once, and all succeed; who lives in the mount
// notices nothing.
func TestServerIsKilledUnderWaiters(t *testing.T) {
	for _, flag := range []string{"--data=noopen", "--data=passthrough", "--data=cached", "--wait=lookup"} {
		t.Run(flag, func(t *testing.T) {
			if flag == "--data=passthrough" && os.Getuid() != 0 {
				t.Skip("passthrough needs root")
			}
			l := newLab(t)
			l.messages()
			body, release := l.held("gate", "mkdir $out; echo gate > $out/file")
			file := l.star("a.star", body+`
ready = sh("ready", "mkdir $out; echo ready > $out/file")
slow = [sh("slow-%d" % i, "echo `+filepath.Base(l.Dir)+`; until test -e /gates/gate; do sleep 0.05; done; mkdir $out; echo slow > $out/file") for i in range(4)]
default = [gate] + slow
`)
			ready := l.ok("build", file+":ready")[0]
			outs := l.outputs(file)
			l.serve(flag, "-j", "8", l.gates())
			home := inhabit(t, ready)
			before := home.sees()
			var waiters sync.WaitGroup
			var failed atomic.Int32
			wait := func(n int) {
				for i := range n {
					argv := []string{"cat", outs[i%5] + "/file"}
					switch i / 5 % 3 {
					case 1:
						argv = []string{"ls", outs[i%5]}
					case 2:
						argv = []string{"bash", "-c", "cd $0 && test -s file", outs[i%5]}
					}
					waiters.Go(func() {
						if b, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
							failed.Add(1)
							t.Errorf("%v: %v: %s", argv, err, b)
						}
					})
				}
			}
			seen := 50
			if flag == "--wait=lookup" {
				seen = 5 // the kernel asks once for a name, and lets the others wait
			}
			wait(50)
			waitFor(t, "the callers", func() bool { return len(l.waiters()) == seen })
			waitFor(t, "the builders", func() bool { return builders(filepath.Base(l.Dir)) == 4 })
			l.killServer()
			events := l.watch()
			waitFor(t, "the same callers", func() bool { return len(l.waiters()) == seen })
			wait(10)
			waitFor(t, "the builders again", func() bool { return builders(filepath.Base(l.Dir)) == 4 })
			if now := home.sees(); now != before {
				t.Errorf("it was\n%s\nand is\n%s", before, now)
			}
			release()
			waiters.Wait()
			for _, name := range []string{"gate", "slow-0", "slow-1", "slow-2", "slow-3"} {
				if n := events().built(name); n != 1 {
					t.Errorf("%s was built %d times after the kill", name, n)
				}
			}
			if now := home.sees(); now != before {
				t.Errorf("it was\n%s\nand is\n%s", before, now)
			}
			l.ok("verify", "--check-contents")
			home.in.Close()
			home.cmd.Wait()
			l.ok("umount")
			l.noOrphans(0)
		})
	}
}

// pause is a client that uses the mount without a break; stop returns how often,
// and the longest time that one use took.
func (l *lab) pause(dir string) (stop func() (uses int, longest time.Duration)) {
	var uses atomic.Int64
	var longest time.Duration
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			began := time.Now()
			// No such name was ever asked for: the server has to answer.
			if _, err := os.Lstat(fmt.Sprintf("%s/nothing-%d", dir, n)); !os.IsNotExist(err) {
				l.t.Errorf("lstat of nothing: %v", err)
			}
			longest = max(longest, time.Since(began))
			uses.Add(1)
		}
	}()
	return func() (int, time.Duration) {
		close(done)
		<-ended
		return int(uses.Load()), longest
	}
}

// A newer program goes on with a mount in use.
func TestUpgrade(t *testing.T) {
	l := newLab(t)
	l.messages()
	body, release := l.held("gate", "mkdir $out; echo gate > $out/file")
	file := l.star("a.star", body+`
ready = sh("ready", "mkdir $out; seq 1 100000 > $out/file")`)
	ready := l.ok("build", file+":ready")[0]
	gate := l.outputs(file + ":gate")[0]
	l.copyFile(binary, "newer")
	l.serve("-j", "4", l.gates())
	home := inhabit(t, ready)
	before := home.sees()
	_, done := l.touch("cat", gate+"/file")
	waitFor(t, "a caller", func() bool { return len(l.waiters()) == 1 })
	old := l.server()

	stop := l.pause(ready)
	version := l.ok("version")[0]
	for i, program := range []string{l.Dir + "/newer", binary, l.Dir + "/newer"} {
		if got := l.ok("upgrade", program); len(got) != 1 || !strings.Contains(version, got[0]) {
			t.Errorf("upgrade %d prints %q; this is %s", i, got, version)
		}
		now := l.server()
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", now))
		if err != nil || exe != program || now == old {
			t.Errorf("upgrade %d: process %d after %d runs %s, %v", i, now, old, exe, err)
		}
		old = now
		said := fmt.Sprintf("storefs: upgraded: %s (pid %d) serves the mount now\n", program, now)
		waitFor(t, "a word of it", func() bool {
			log, err := os.ReadFile(l.Dir + "/mount.log")
			return err == nil && strings.Contains(string(log), said)
		})
	}
	uses, longest := stop()
	t.Logf("%d requests during three upgrades; the longest took %v", uses, longest)
	if uses < 100 {
		t.Error("hardly any requests were made")
	}

	// What does not start, or is no storefs, changes nothing.
	failing := l.write("failing", "#!/bin/sh\nexit 3\n")
	os.Chmod(failing, 0o755)
	l.fails(2, []string{"upgrade: ", "no such file or directory"}, "upgrade", l.Dir+"/nothing")
	l.fails(1, []string{"upgrade: the new program ended before it could serve: exit status 3"}, "upgrade", failing)
	l.fails(2, []string{"upgrade: ", "permission denied"}, "upgrade", file)
	// One that hangs can be called off.
	hanging := l.write("hanging", "#!/bin/sh\n: > "+l.Dir+"/hangs\nexec sleep 300\n")
	os.Chmod(hanging, 0o755)
	upgrade := l.command("upgrade", hanging)
	if err := upgrade.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the program that hangs", func() bool { _, err := os.Stat(l.Dir + "/hangs"); return err == nil })
	upgrade.Process.Signal(unix.SIGINT)
	if upgrade.Wait(); upgrade.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted: %v", upgrade.ProcessState)
	}
	l.fails(1, []string{"exit status 3"}, "upgrade", failing)
	if l.server() != old {
		t.Error("another server serves")
	}
	if now := home.sees(); now != before {
		t.Error("who lives in the mount sees something else")
	}
	release()
	done()
	// The holder is the new program too: it starts that again.
	l.killServer()
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", l.server())); exe != l.Dir+"/newer" {
		t.Errorf("%s was started", exe)
	}
	if holders := l.serving(true); len(holders) != 1 || holders[0] != l.mount.Process.Pid {
		t.Errorf("holders: %v, the mount was process %d", holders, l.mount.Process.Pid)
	}
	home.in.Close()
	home.cmd.Wait()
	l.stop()
}

// Without a holder the mount dies with its server, and the next one replaces it.
func TestNoSurvive(t *testing.T) {
	l := newLab(t)
	l.messages()
	file := l.star("a.star", `default = sh("ready", "mkdir $out; echo ready > $out/file")`)
	out := l.ok("build", file)[0]
	l.serve("--no-survive")
	if n := len(l.serving(true)); n != 0 || l.server() != l.mount.Process.Pid {
		t.Errorf("%d holders, and the server is process %d, not %d", n, l.server(), l.mount.Process.Pid)
	}
	l.fails(1, []string{"upgrade: the owner is a `storefs mount` that does not outlive itself"}, "upgrade")
	l.kill()
	if _, err := os.ReadFile(out + "/file"); err == nil || !strings.Contains(err.Error(), unix.ENOTCONN.Error()) {
		t.Errorf("after the kill: %v", err)
	}
	l.fails(1, []string{"upgrade"}, "upgrade")
	l.serve("--no-survive")
	if b, err := os.ReadFile(out + "/file"); err != nil || string(b) != "ready\n" {
		t.Errorf("%q, %v", b, err)
	}
	l.stop()
}

// A server that cannot live gives the mount up: who waits gets an error.
func TestServerThatCannotLive(t *testing.T) {
	l := newLab(t)
	l.messages()
	body, _ := l.held("gate", "mkdir $out")
	gate := l.outputs(l.star("a.star", body) + ":gate")[0]
	l.serve(l.gates())
	stuck := exec.Command("ls", gate)
	if err := stuck.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a caller", func() bool { return len(l.waiters()) == 1 })
	// Nobody can become the owner of what is not there.
	if err := os.Rename(l.State+"/config.json", l.State+"/config"); err != nil {
		t.Fatal(err)
	}
	unix.Kill(l.server(), unix.SIGKILL)
	if err := l.mount.Wait(); l.mount.ProcessState.ExitCode() != 1 {
		t.Errorf("the holder's end: %v", err)
	}
	l.mount = nil
	if err := stuck.Wait(); err == nil {
		t.Error("who waited succeeded")
	}
	log, _ := os.ReadFile(l.Dir + "/mount.log")
	if !strings.Contains(string(log), "storefs: the mount is given up: the server died 5 times in a row, the last time by: exit status ") {
		t.Errorf("%s", log)
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.Store) {
		t.Error("still mounted")
	}
	if err := os.Rename(l.State+"/config", l.State+"/config.json"); err != nil {
		t.Fatal(err)
	}
	l.serve()
	l.stop()
}

// What is deleted while a server takes the mount over is gone for the kernel as well, which
// knows thousands of names that are looked at then.
func TestDeletedDuringTakeOver(t *testing.T) {
	l := newLab(t)
	const rounds, each = 4, 6 // after five deaths in a row, the mount is given up
	file := l.star("a.star", fmt.Sprintf(`
texts = [text("text%%d" %% i, str(i)) for i in range(1500)]
default = [sh("x%%d" %% i, "mkdir $out; echo %%d > $out/file" %% i) for i in range(%d)]
names = sh("names", "echo $all > $out", kind = "regular", env = {"all": texts})
`, rounds*each))
	built := l.ok("build", file)
	names := l.ok("instantiate", file+":names")[0]
	l.serve()
	for _, p := range append(l.ok("query", "requisites", names), built...) {
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
	}
	for i := range rounds {
		mine := built[i*each:][:each]
		for _, p := range mine {
			if _, err := os.ReadFile(p + "/file"); err != nil {
				t.Fatal(err)
			}
		}
		unix.Kill(l.server(), unix.SIGKILL)
		var deleted sync.WaitGroup
		for _, p := range mine {
			deleted.Go(func() { l.storefs("delete", p) })
		}
		deleted.Wait()
		for _, p := range mine {
			valid := func() bool { return l.storefs("query", "info", p).status == 0 }
			if valid() {
				continue // the command had to be asked again, and was not
			}
			if b, err := os.ReadFile(p + "/file"); err != nil || !valid() {
				t.Errorf("round %d: %s is deleted, and can be read: %q, %v", i, p, b, err)
			}
		}
	}
}
