package fs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// No caller sees EINTR because of a signal that is not meant to end it.
func TestSignalsDoNotInterrupt(t *testing.T) {
	needTool(t, "python3")
	clients := map[string]string{
		// The C library's calls as they are: Python itself tries again.
		"python": `python3 -c "
import ctypes, os, signal, sys
for s in (signal.SIGALRM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGUSR1): signal.signal(s, lambda n, f: None)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
libc = ctypes.CDLL(None, use_errno=True)
f = libc.open(sys.argv[1].encode(), os.O_RDONLY)
# Not sys.exit, which would take the handlers away before the timer.
os.write(1, os.strerror(ctypes.get_errno()).encode() if f < 0 else b'')
os._exit(f < 0)" $S/$1/share/doc`,
		"bash": `bash -c "
trap : ALRM CHLD WINCH URG USR1
sleep 0.05 &
read -r line < $S/$1/share/doc && test \$line = doc"`,
		"cat": `cat $S/$1/share/doc`,
		"go":  `"$TEST" -client signals $S/$1/share/doc`,
	}
	if cc, err := exec.LookPath("gcc"); err == nil {
		src, bin := filepath.Join(t.TempDir(), "c.c"), filepath.Join(t.TempDir(), "c")
		code := `#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
static void on(int s) {}
int main(int n, char **v) {
	int all[] = {SIGALRM, SIGCHLD, SIGWINCH, SIGURG, SIGUSR1};
	for (int i = 0; i < 5; i++) {
		struct sigaction a = {.sa_handler = on, .sa_flags = i % 2 ? 0 : SA_RESTART};
		sigaction(all[i], &a, 0);
	}
	struct itimerval t = {{0, 10000}, {0, 10000}};
	setitimer(ITIMER_REAL, &t, 0);
	struct stat st;
	if (stat(v[1], &st) < 0 || open(v[1], O_RDONLY) < 0) { perror("c"); return 1; }
	return 0;
}`
		if err := os.WriteFile(src, []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(cc, "-o", bin, src).CombinedOutput(); err != nil {
			t.Fatalf("%s, %v", out, err)
		}
		clients["c"] = bin + ` $S/$1/share/doc`
	}
	eachShape(t, func(t *testing.T, promised store.Kind) {
		s := newFakeStore(t)
		dir, _ := mount(t, s, nil)
		t.Setenv("TEST", testBinary(t))
		i := 0
		for who, script := range clients {
			i++
			hold := make(chan struct{})
			n := s.add(name(i, "x"), recipe{make: tree, promised: promised, hold: hold})
			cmd, wait := spawn(t, dir, script, n)
			until(t, who+" waits", func() bool { return s.waiting() == 1 })
			sigs := []syscall.Signal{unix.SIGCHLD, unix.SIGWINCH, unix.SIGURG}
			if who != "cat" {
				sigs = append(sigs, unix.SIGALRM, unix.SIGUSR1)
			}
			for range 5 {
				for _, sig := range sigs {
					cmd.Process.Signal(sig)
					time.Sleep(5 * time.Millisecond)
				}
			}
			// Stopping and continuing it is no reason either.
			cmd.Process.Signal(unix.SIGSTOP)
			time.Sleep(60 * time.Millisecond)
			cmd.Process.Signal(unix.SIGCONT)
			if s.waiting() != 1 {
				t.Errorf("%s no longer waits", who)
			}
			close(hold)
			if err := wait(); err != nil {
				t.Errorf("%s: %v", who, err)
			}
		}
	})
}

// Nor one because of a signal that comes while the server looks at it, which finds it
// awake: of many signals in short waits, some do.
func TestManySignalsDoNotInterrupt(t *testing.T) {
	needTool(t, "python3")
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	args := []string{dir}
	for i := range 300 {
		args = append(args, s.add(name(i, "x"), recipe{make: regular("text"), delay: 3 * time.Millisecond}))
	}
	must(t, dir, `python3 -c "
import ctypes, os, signal, sys
signal.signal(signal.SIGALRM, lambda n, f: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
libc = ctypes.CDLL(None, use_errno=True)
errors = [os.strerror(ctypes.get_errno()) for n in sys.argv[2:] if libc.access((sys.argv[1] + '/' + n).encode(), os.R_OK) < 0]
signal.setitimer(signal.ITIMER_REAL, 0)
print(errors)" "$@"`, "[]", args...)
}
