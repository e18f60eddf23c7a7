package fstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forbidVariable says, in the environment, that this program shall execute its arguments
// without a system call, whose number and error it has, or without it where its first
// argument has one of some bits.
const forbidVariable = "STOREFS_TEST_FORBID"

// executeForbidden does that, as a container's runtime does.
func executeForbidden(what string) error {
	var nr, errno, bits uint32
	if _, err := fmt.Sscan(what, &nr, &errno, &bits); err != nil {
		return err
	}
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number, of struct seccomp_data
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // the lower half of the first argument
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: bits},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: bits, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); e != 0 {
		return e
	}
	return unix.Exec(os.Args[1], os.Args[1:], os.Environ())
}

// without is a command of storefs for which a system call is forbidden.
func (l *lab) without(nr int, errno unix.Errno, args ...string) *exec.Cmd {
	l.t.Helper()
	return l.withoutBits(nr, 0, errno, args...)
}

// withoutBits is one for which it is forbidden where its first argument has these bits.
func (l *lab) withoutBits(nr int, bits uint32, errno unix.Errno, args ...string) *exec.Cmd {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := l.command(args...)
	cmd.Path, cmd.Args = self, append([]string{self, binary}, args...)
	cmd.Env = append(l.env, fmt.Sprintf("%s=%d %d %d", forbidVariable, nr, errno, bits))
	return cmd
}

// What a filter of whoever started us forbids is named, where there is no way without it.
func TestForbiddenCalls(t *testing.T) {
	l := newLab(t)
	l.star("a.star", `
a = sh("a", "echo > $out", kind = "regular")
b = sh("b", "echo > $out", kind = "regular")
c = sh("c", "echo > $out", kind = "regular")
`)
	for errno, why := range map[unix.Errno]string{
		unix.EPERM:  "operation not permitted: user namespaces, mounts or other system calls are forbidden here",
		unix.ENOSYS: "function not implemented: the kernel is older than Linux 5.12, or a container's seccomp profile hides it",
	} {
		told := func(r result, status int, want string) {
			t.Helper()
			if r.status != status || !strings.Contains(r.stderr, want) {
				t.Errorf("status %d, no %q in\n%s", r.status, want, r.stderr)
			}
		}
		told(run(t, l.without(unix.SYS_SPLICE, errno, "mount", "--background")), 1, "splice does not work here, it needs no filter against it: "+errno.Error())
		told(run(t, l.without(unix.SYS_CLOSE_RANGE, errno, "build", "a.star:a")), 1, "close descriptors: close_range: "+why)
		// Nothing of a build needs it.
		target := map[unix.Errno]string{unix.EPERM: "a.star:b", unix.ENOSYS: "a.star:c"}[errno]
		if r := run(t, l.without(unix.SYS_PIDFD_OPEN, errno, "build", target)); r.status != 0 || strings.Contains(r.stderr, "sandboxes take longer") {
			t.Errorf("status %d: %s", r.status, r.stderr)
		}
		// A mount says so before anybody waits for a build.
		for nr, what := range map[int]string{unix.SYS_SETHOSTNAME: "set host name", unix.SYS_PIVOT_ROOT: "pivot root"} {
			said := "nothing can be built here: set up the sandbox: " + what + ": " + why
			told(run(t, l.without(nr, errno, "mount", "--background")), 0, said)
			l.ok("umount")
			if log, _ := os.ReadFile(l.State + "/daemon.log"); !strings.Contains(string(log), said) {
				t.Errorf("the mount says\n%s", log)
			}
		}
	}
	l.serve()
	r := run(t, l.without(unix.SYS_PIDFD_OPEN, unix.EPERM, "umount"))
	var pid int
	_, hint, _ := strings.Cut(r.stderr, "(kill ")
	if _, err := fmt.Sscan(hint, &pid); r.status != 1 || err != nil || !strings.Contains(r.stderr, "pidfd_open does not work here") {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := l.mount.Wait(); err != nil {
		t.Error(err)
	}
	l.mount = nil
	l.fails(1, []string{"is not mounted"}, "umount")
}

// Containers' runtimes forbid to keep addresses the same, with one error or the other,
// and allow the rest of personality(2): that is no reason not to build.
func TestForbiddenPersonality(t *testing.T) {
	const addrNoRandomize = 0x0040000
	l := newLab(t)
	script := "cat /proc/self/personality > $out; busybox uname -m >> $out"
	l.star("a.star", fmt.Sprintf(`
a = sh("a", %q, kind = "regular")
b = sh("b", %[1]q, kind = "regular")
c = sh("c", %[1]q, kind = "regular", system = "i686-linux")
`, script))
	targets := []string{"a", "b"}
	if runtime.GOARCH == "amd64" {
		targets = append(targets, "c")
	}
	for i, target := range targets {
		errno := []unix.Errno{unix.EPERM, unix.ENOSYS, unix.EPERM}[i]
		r := run(t, l.withoutBits(unix.SYS_PERSONALITY, addrNoRandomize, errno, "build", "a.star:"+target))
		if r.status != 0 || r.stderr != "" {
			t.Fatalf("%s: status %d: %s", target, r.status, r.stderr)
		}
		text, err := os.ReadFile(l.State + "/real/" + filepath.Base(strings.TrimSpace(r.stdout)))
		if err != nil {
			t.Fatal(err)
		}
		flags, machine, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if target == "c" && (flags != "00000008" || machine != "i686") || target != "c" && flags != "00000000" {
			t.Errorf("%s: flags %s of a machine %s", target, flags, machine)
		}
	}
}

// A chroot may have no /proc.
func TestWithoutProc(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "only root can unmount /proc")
	}
	l := newLab(t)
	l.star("a.star", `default = sh("a", "echo > $out", kind = "regular")`)
	for _, args := range [][]string{{"mount"}, {"mount", "--background"}, {"mount", "--no-survive"}, {"build", "a.star"}} {
		cmd := exec.Command("sh", append([]string{"-euc", `umount -l /proc; exec "$@"`, "sh", binary}, args...)...)
		cmd.Env, cmd.Dir = l.env, l.Dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		r := run(t, cmd)
		if r.status != 1 || !strings.Contains(r.stderr, "no /proc of this pid namespace is mounted here (mount -t proc proc /proc)\n") {
			t.Errorf("%v: status %d: %s", args, r.status, r.stderr)
		}
	}
}
