package fstest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// buffered is how many bytes are in a pipe.
func buffered(t *testing.T, pipe *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A command that waits for whoever writes what it reads, or reads what it writes, ends
// at once when it is interrupted, and leaves nothing.
func TestInterruptedAtAPipe(t *testing.T) {
	l := newLab(t)
	l.write("big", strings.Repeat("0123456789abcdef", 1<<16))
	big := l.ok("add", "big")[0]
	archive := l.inShell(binary + " dump big | head -c 300").stdout
	stream := l.inShell(binary + " export " + big + " | head -c 300").stdout
	for name, c := range map[string]struct {
		stdin string // after which no more comes
		args  []string
	}{
		"restore":         {archive, []string{"restore", "restored"}},
		"import":          {stream, []string{"import"}},
		"fmt":             {"a = 1\n", []string{"fmt"}},
		"prefetch import": {"{", []string{"prefetch", "import"}},
		"dump":            {"", []string{"dump", "big"}},
		"export":          {"", []string{"export", big}},
		"log":             {"", []string{"log", l.loud()}},
		"log --json":      {"", []string{"log", "--json", l.loud()}},
	} {
		t.Run(name, func(t *testing.T) {
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			defer write.Close()
			cmd := l.command(c.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			waiting := func() bool { return buffered(t, read) >= 1<<16 }
			if c.stdin == "" {
				cmd.Stdout = write
			} else {
				cmd.Stdin = read
				if _, err := write.WriteString(c.stdin); err != nil {
					t.Fatal(err)
				}
				waiting = func() bool { return buffered(t, read) == 0 }
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait()
				close(ended)
			}()
			defer func() {
				cmd.Process.Kill()
				<-ended
			}()
			waitFor(t, "the pipe", waiting)
			cmd.Process.Signal(unix.SIGINT)
			waitFor(t, "its end", func() bool {
				select {
				case <-ended:
					return true
				default:
					return false
				}
			})
			if got := cmd.ProcessState.ExitCode(); got != 130 || stderr.String() != "storefs: interrupted\n" {
				t.Errorf("status %d, %q", got, stderr.String())
			}
		})
	}
	if _, err := os.Lstat(l.Dir + "/restored"); err == nil {
		t.Error("a half of the archive is left")
	}
	if left, _ := os.ReadDir(l.State + "/builds"); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// A build whose profile goes to a FIFO that nobody reads is not begun, and can be
// interrupted.
func TestInterruptedAtAProfile(t *testing.T) {
	l := newLab(t)
	fifo := l.Dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := l.command("build", "--profile="+fifo, l.star("a.star", `default = sh("x", "mkdir $out")`))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	defer func() {
		cmd.Process.Kill()
		<-ended
	}()
	waitFor(t, "the FIFO", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", cmd.Process.Pid))
		return slices.ContainsFunc(threads, func(name string) bool {
			where, _ := os.ReadFile(name)
			return string(where) == "wait_for_partner"
		})
	})
	cmd.Process.Signal(unix.SIGINT)
	waitFor(t, "its end", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if got := cmd.ProcessState.ExitCode(); got != 130 || stderr.String() != "storefs: interrupted\n" {
		t.Errorf("status %d, %q", got, stderr.String())
	}
}

// A command that is given a path of the mount which nothing has built yet waits for
// that in the kernel, and ends when it is interrupted.
func TestInterruptedAtAPlaceholder(t *testing.T) {
	l := newLab(t)
	// Without an end: who waits for it is not let go by that.
	target := l.star("slow.star", `default = sh("slow", "sleep 1000")`)
	l.serve()
	slow := l.outputs(target)[0]
	for name, args := range map[string][]string{
		"hash":            {"hash", slow},
		"dump":            {"dump", slow},
		"fmt":             {"fmt", slow + "/x.star"},
		"restore":         {"restore", slow + "/x"},
		"add":             {"add", slow + "/x"},
		"import":          {"import", slow + "/x"},
		"import .drv":     {"import", slow + "/x.drv"},
		"prefetch import": {"prefetch", "import", slow + "/x"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := l.command(args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait()
				close(ended)
			}()
			defer func() {
				cmd.Process.Kill()
				<-ended
			}()
			waitFor(t, "the caller", func() bool { return len(l.waiters()) == 1 })
			cmd.Process.Signal(unix.SIGINT)
			waitFor(t, "its end", func() bool {
				select {
				case <-ended:
					return true
				default:
					return false
				}
			})
			if got := cmd.ProcessState.ExitCode(); got != 130 || stderr.String() != "storefs: interrupted\n" {
				t.Errorf("status %d, %q", got, stderr.String())
			}
			waitFor(t, "nobody", func() bool { return len(l.waiters()) == 0 })
		})
	}
}

// loud is an output whose builder has written more than a pipe holds.
func (l *lab) loud() string {
	l.t.Helper()
	return l.ok("build", l.star("loud.star", `default = sh("loud", "seq 100000; mkdir $out")`))[0]
}

// A signal that comes while a mount looks for another owner, which does not answer, is
// not forgotten when it becomes a holder.
func TestInterruptedBeforeItMounts(t *testing.T) {
	l := newLab(t)
	conn, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.State + "/socket", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	cmd := l.command("mount")
	cmd.Stderr = new(bytes.Buffer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Accept(); err != nil { // it asks
		t.Fatal(err)
	}
	cmd.Process.Signal(unix.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	waitFor(t, "the end", func() bool {
		select {
		case <-ended:
			return true
		default:
			if l.mounted() {
				l.ok("umount")
				t.Fatal("it mounts")
			}
			return false
		}
	})
	if status := cmd.ProcessState.ExitCode(); status != 130 {
		t.Errorf("status %d: %s", status, cmd.Stderr)
	}
}
