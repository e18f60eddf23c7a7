package notice

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/fs"
)

// pty is a new pseudo-terminal: what is written to the returned slave is read
// from the master.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no terminals: ", err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	var e error
	err = raw.Control(func(fd uintptr) {
		if e = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); e == nil {
			n, e = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || e != nil {
		t.Fatal(err, e)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals: ", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// waiter is a process on the terminal, in a session of its own.
func waiter(t *testing.T, tty *os.File, script string, env ...string) uint32 {
	t.Helper()
	cmd := exec.Command("sh", "-c", script+"; exec sleep 1000")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	until(t, "the waiter started", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return string(b) == "sleep\n"
	})
	return uint32(cmd.Process.Pid)
}

// until waits for a condition that must come true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("never: %s", what)
			return
		}
	}
}

// tells is to how many callers t has spoken, or would have, that still wait.
func tells(t *Teller) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, callers := range t.told {
		n += callers
	}
	return n
}

type slow time.Duration

func (s slow) Realise(context.Context, fs.Call) error {
	time.Sleep(time.Duration(s))
	return context.Canceled
}

// patient is realised when the function returns.
type patient func()

func (p patient) Realise(context.Context, fs.Call) error {
	p()
	return context.Canceled
}

// shown is what comes out of the terminal: want, for which it waits, and what else comes
// within a moment.
func shown(master *os.File, want string) string {
	var all strings.Builder
	buf := make([]byte, 4096)
	master.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		if strings.Contains(all.String(), want) {
			master.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
		n, err := master.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			return all.String()
		}
	}
}

func text(c fs.Call) string { return "wait for " + c.Name }

const long = slow(Patience + 200*time.Millisecond)

func TestTellsThoseWhoAsk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, c := range []struct {
		name, script, env string
		takes             slow
		want              string
	}{
		{"asked", ":", "STOREFS_NOTIFY=1", long, "\rstorefs: wait for x\r\r\n"},
		{"quick", ":", "STOREFS_NOTIFY=1", slow(10 * time.Millisecond), ""},
		{"not asked", ":", "STOREFS_NOTIFY=0", long, ""},
		{"nothing said", ":", "OTHER_STOREFS_NOTIFY=1", long, ""},
		{"redirected", "exec 2>/dev/null >/dev/null", "STOREFS_NOTIFY=1", long, "\rstorefs: wait for x\r\r\n"},
		{"all redirected", "exec </dev/null 2>/dev/null >/dev/null", "STOREFS_NOTIFY=1", long, "\rstorefs: wait for x\r\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			master, slave := pty(t)
			pid := waiter(t, slave, c.script, c.env)
			var got string
			tell := New(patient(func() {
				time.Sleep(time.Duration(c.takes))
				if c.want != "" {
					got = shown(master, c.want) // however long that takes
				}
			}), text)
			if err := tell.Realise(t.Context(), fs.Call{Name: "x", PID: pid, UID: uint32(os.Getuid())}); err != context.Canceled {
				t.Error(err)
			}
			if got += shown(master, ""); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			until(t, "nothing is left over", func() bool { return tells(tell) == 0 })
		})
	}
}

// A hundred who wait for the same on one terminal are told once.
func TestTellsOnce(t *testing.T) {
	t.Parallel()
	master, slave := pty(t)
	pid := waiter(t, slave, ":", "STOREFS_NOTIFY=1")
	const callers = 100
	release := make(chan struct{})
	tell := New(patient(func() { <-release }), text)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			tell.Realise(t.Context(), fs.Call{Name: fmt.Sprint("x", i%2), PID: pid, UID: uint32(os.Getuid())})
		})
	}
	until(t, "all are spoken to", func() bool { return tells(tell) == callers })
	close(release)
	all.Wait()
	got := shown(master, "wait for x0")
	if !strings.Contains(got, "wait for x1") {
		got += shown(master, "wait for x1")
	}
	if strings.Count(got, "wait for x0") != 1 || strings.Count(got, "wait for x1") != 1 {
		t.Errorf("%q", got)
	}
}

// A terminal that takes nothing, and a process without one, delay nobody.
func TestNeverBlocks(t *testing.T) {
	t.Parallel()
	_, slave := pty(t)
	pid := waiter(t, slave, ":", "STOREFS_NOTIFY=1")
	if err := unix.IoctlSetInt(int(slave.Fd()), unix.TCXONC, unix.TCOOFF); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, pid := range []uint32{pid, 0, 1 << 22} {
		all.Go(func() {
			New(long, text).Realise(t.Context(), fs.Call{Name: "x", PID: pid, UID: uint32(os.Getuid())})
		})
	}
	all.Wait() // or never
}

// Nor does a look at a process that takes for ever, and what that finds out too late
// is forgotten.
func TestLookThatHangs(t *testing.T) {
	t.Parallel()
	_, slave := pty(t)
	pid := waiter(t, slave, ":", "STOREFS_NOTIFY=1")
	hang := make(chan struct{})
	tell := New(long, func(fs.Call) string { <-hang; return "" })
	tell.Realise(t.Context(), fs.Call{Name: "x", PID: pid, UID: uint32(os.Getuid())}) // or never
	close(hang)
	until(t, "nothing is left over", func() bool { return tells(tell) == 0 })
}
