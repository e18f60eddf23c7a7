package fstest

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// unread starts a command whose output nobody reads; the returned function waits for
// its end, and is its exit status, -1 if a signal was its end.
func (l *lab) unread(args ...string) func() int {
	l.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cmd.Process.Kill() })
	return func() int {
		_ = cmd.Wait()
		return cmd.ProcessState.Sys().(syscall.WaitStatus).ExitStatus()
	}
}

// A command that others use goes on for them when nobody reads any more what it says
// itself.
func TestNobodyReadsTheOwner(t *testing.T) {
	l := newLab(t)
	own, releaseOwn := l.held("own", "echo hello; mkdir $out")
	other, release := l.held("other", "mkdir $out")
	file := l.star("a.star", own+other)
	status := l.unread("build", "-j2", "-L", l.gates(), file+":own")
	waitFor(t, "the owner", func() bool { _, err := os.Stat(l.State + "/socket"); return err == nil })
	client := l.command("build", file+":other")
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "both builds", func() bool { return strings.Contains(strings.Join(l.ok("status"), "\n"), "goals: 2 running") })
	releaseOwn()
	waitFor(t, "the owner's output", func() bool {
		outs, _ := filepath.Glob(l.State + "/real/*-own")
		return len(outs) == 1
	})
	release()
	if err := client.Wait(); err != nil {
		t.Errorf("the other command: %v", err)
	}
	if got := status(); got != 141 {
		t.Errorf("the owner: exit status %d, want 141", got)
	}
}

// Whoever watches ends then, also as the owner that nobody else uses.
func TestNobodyReadsWhoWatches(t *testing.T) {
	l := newLab(t)
	for _, args := range [][]string{{"status", "--watch"}, {"status", "--watch", "--json"}} {
		if status := l.unread(args...); status() != 141 {
			t.Errorf("%v: not exit status 141", args)
		}
	}
}

// fullPipe is a pipe with room for nothing, and how much is in it.
func fullPipe(t *testing.T) (read, write *os.File, size int) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	fd := int(write.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := unix.Write(fd, make([]byte, 4096))
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		size += n
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	return read, write, size
}

// serveTo is serve with messages that go to f.
func (l *lab) serveTo(f *os.File, args ...string) {
	l.t.Helper()
	l.mount = l.command(append([]string{"mount"}, args...)...)
	l.mount.Stderr = f
	if err := l.mount.Start(); err != nil {
		l.t.Fatal(err)
	}
	waitFor(l.t, "the mount", l.mounted)
}

// A mount whose messages nobody reads builds, is served anew when its server dies, and
// ends, as any other.
func TestNobodyReadsTheMount(t *testing.T) {
	for _, args := range [][]string{nil, {"--no-survive"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			l := newLab(t)
			outs := l.outputs(l.star("a.star", `
def some(n):
    # What is done half a second after the begin has a line.
    return [sh("o%d" % i, "sleep 0.3; mkdir $out; exit %d" % (i % 2)) for i in range(n)]
default = some(8)
`))
			read, write, size := fullPipe(t)
			l.serveTo(write, args...)
			touch := func(outs []string) {
				t.Helper()
				for i, out := range outs {
					done := make(chan error, 1)
					go func() {
						_, err := os.Stat(out)
						done <- err
					}()
					waitFor(t, "a build", func() bool { return len(done) == 1 })
					if err := <-done; (err == nil) != (i%2 == 0) {
						t.Errorf("%s: %v", out, err)
					}
				}
			}
			touch(outs[:4])
			if args == nil {
				l.killServer()
			}
			touch(outs[4:])
			in := exec.Command("sleep", "60")
			in.Dir = l.Store // one more line, at the end
			if err := in.Start(); err != nil {
				t.Fatal(err)
			}
			defer in.Wait()
			defer in.Process.Kill()
			umount := l.command("umount")
			if err := umount.Start(); err != nil {
				t.Fatal(err)
			}
			defer umount.Process.Kill()
			ended := make(chan error, 2)
			for _, cmd := range []*exec.Cmd{umount, l.mount} {
				go func() { ended <- cmd.Wait() }()
			}
			waitFor(t, "the end of the mount", func() bool { return len(ended) == 2 })
			l.mount = nil
			for range 2 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			write.Close()
			if b, err := io.ReadAll(read); err != nil || !bytes.Equal(b, make([]byte, size)) {
				t.Errorf("the pipe that was full has %q more, %v", b[min(len(b), size):], err)
			}
		})
	}
}
