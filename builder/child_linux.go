package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childName is the argv[0] by which a process knows that it is a sandbox child.
const childName = "storefs-sandbox"

// Descriptors that a sandbox child is born with, after the usual three.
const (
	specFD    = 3
	controlFD = 4
)

// Child becomes the builder, and never returns, if this process was started as
// the child of a sandbox. Otherwise it does nothing. It must be the first thing
// that main, or TestMain of tests that build, does.
func Child() {
	if len(os.Args) == 0 || os.Args[0] != childName {
		return
	}
	// Credentials, capabilities, the parent-death signal and seccomp belong to
	// a thread. Exec keeps those of the thread that calls it.
	runtime.LockOSThread()
	says, err := becomeBuilder()
	_, _ = unix.Write(controlFD, message{says, errnoOf(err), err.Error()}.append(nil))
	os.Exit(1)
}

// becomeBuilder returns only if it fails, with what to say on the control
// socket.
func becomeBuilder() (byte, error) {
	var s spec
	text, err := io.ReadAll(os.NewFile(specFD, "spec"))
	if err != nil {
		return saysFailed, fmt.Errorf("read sandbox spec: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return saysFailed, fmt.Errorf("read sandbox spec: %w", err)
	}
	if s.Probe {
		return saysFailed, probe()
	}
	if err := s.setUp(); err != nil {
		return saysFailed, err
	}
	if err := awaitGo(); err != nil {
		return saysFailed, err
	}
	err = syscall.Exec(string(s.Builder), splitNUL(s.Args), splitNUL(s.Env))
	if _, e := os.Stat(string(s.Builder)); errors.Is(err, unix.ENOENT) && e == nil {
		err = fmt.Errorf("%w (the interpreter that it needs, not the file itself)", err)
	}
	return saysNoExec, err
}

// setUp does everything before the exec, in the one order that works: what
// needs capabilities, then dropping them, then what a change of credentials
// would undo.
func (s *spec) setUp() error {
	syscall.Umask(0)
	if err := s.setUpHost(); err != nil {
		return err
	}
	if err := s.enterRoot(); err != nil {
		return err
	}
	syscall.Umask(0o022)
	if err := s.setUpProcess(); err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	if err := installFilter(); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// awaitGo tells the parent that the parent-death signal is set, and waits for
// its answer. A parent that died before the signal was set cannot answer, so
// no builder ever runs without the signal: asking for the parent's pid would not
// do, because it is 0 across pid namespaces.
func awaitGo() error {
	if _, err := unix.Write(controlFD, message{says: saysReady}.append(nil)); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	var answer [1]byte
	for {
		n, err := unix.Read(controlFD, answer[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return errors.New("the parent has gone")
		}
		return unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	}
}

// setUpHost names the machine and brings the loopback interface up.
func (s *spec) setUpHost() error {
	if err := unix.Sethostname([]byte("localhost")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Setdomainname([]byte("(none)")); err != nil {
		return fmt.Errorf("set domain name: %w", err)
	}
	if s.Network {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// setUpProcess sets what the builder inherits: addresses that are the same in
// every build, no core dumps, and no signal blocked or ignored because whoever
// started us did.
func (s *spec) setUpProcess() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, s.Personality, 0, 0); errno != 0 {
		return fmt.Errorf("set personality: %w", errno)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("get core limit: %w", err)
	}
	core.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("set core limit: %w", err)
	}
	// Of all signals, Go's runtime leaves only these two ignored if they were
	// so when it started; handlers go away by themselves. The kernel's
	// struct sigaction is 32 bytes, all zero for SIG_DFL.
	var dfl [32]byte
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT} {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0)
		if errno != 0 {
			return fmt.Errorf("reset %s: %w", unix.SignalName(sig), errno)
		}
	}
	var none uint64
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0); errno != 0 {
		return fmt.Errorf("unblock signals: %w", errno)
	}
	return nil
}
