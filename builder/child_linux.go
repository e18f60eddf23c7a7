package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"storefs/buildenv"
	"storefs/fetchurl"
	"storefs/unpackchannel"
)

// childName is the argv[0] by which a process knows that it is a sandbox child.
const childName = "storefs-sandbox"

// Descriptors that a sandbox child is born with, after the usual three.
const (
	specFD    = 3
	controlFD = 4
)

// Child becomes the builder, or a spawner of builders, or is a builtin builder, and
// never returns, if this process was started for that. Otherwise it does nothing. It
// must be the first thing that main, or TestMain of tests that build, does.
func Child() {
	switch {
	case len(os.Args) > 0 && os.Args[0] == childName:
		beBuilder()
	case len(os.Args) > 0 && os.Args[0] == spawnerName:
		beSpawner()
	case len(os.Args) > 0 && os.Args[0] == fetcherName:
		unix.Exit(fetchurl.Main()) // os.Exit waits for a second where races are looked for
	case len(os.Args) > 0 && os.Args[0] == buildenvName:
		unix.Exit(buildenv.Main(inputName))
	case len(os.Args) > 0 && os.Args[0] == unpackerName:
		unix.Exit(unpackchannel.Main())
	}
}

func beBuilder() {
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
	err = syscall.Exec(string(s.Builder), s.Args, s.Env)
	if _, e := os.Stat(string(s.Builder)); errors.Is(err, unix.ENOENT) && e == nil {
		err = noInterpreter(err)
	}
	return saysNoExec, err
}

// noInterpreter explains an error of an exec of a file that is there.
func noInterpreter(err error) error {
	return fmt.Errorf("%w (the interpreter that it needs, not the file itself)", err)
}

// setUp does everything before the exec, in the one order that works: what
// needs capabilities, then dropping them, then what a change of credentials
// would undo.
func (s *spec) setUp() error {
	beBatch()
	beExpendable()
	syscall.Umask(0)
	if err := s.setUpHost(); err != nil {
		return err
	}
	if err := s.enterRoot(); err != nil {
		return err
	}
	syscall.Umask(0o022)
	p := newProgram(maxLastCalls)
	defer p.free()
	if err := p.finish(s.Personality); err != nil {
		return err
	}
	if s.Network {
		if err := p.keepFromHostSockets(); err != nil {
			return err
		}
	}
	p.filter(0)
	if err := p.run(); err != nil {
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
		return closeAtExec()
	}
}

// closeAtExec lets the builder have no descriptors but the usual three.
func closeAtExec() error {
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: close_range: %w", err)
	}
	return nil
}

// setUpHost names the machine and brings the loopback interface up.
func (s *spec) setUpHost() error {
	if err := nameHost(); err != nil || s.Network {
		return err
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	_ = reportAtOnce() // as in all sandboxes; here it is of no use
	return nil
}

func nameHost() error {
	if err := unix.Sethostname([]byte("localhost")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Setdomainname([]byte("(none)")); err != nil {
		return fmt.Errorf("set domain name: %w", err)
	}
	return nil
}

// maxLastCalls is the most that finish adds to a program: most of them are
// about one capability each.
const maxLastCalls = 100

// finish adds what comes last before the exec, but for the filter of system calls.
func (p *program) finish(personality uintptr) error {
	if err := p.setUpProcess(personality); err != nil {
		return err
	}
	p.dropPrivileges()
	return nil
}

// setUpProcess sets what the builder inherits: addresses that are the same in
// every build, no core dumps, half of the processes that we may have, and no signal
// blocked or ignored because whoever started us did.
func (p *program) setUpProcess(personality uintptr) error {
	p.setPersonality(personality)
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return fmt.Errorf("get core limit: %w", err)
	}
	core.Cur = 0
	p.call("set core limit", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, place(p, core), 0)
	// Neither our user's nor the spawner's can all be taken by one builder: Go's runtime ends
	// a program that cannot have one more thread.
	var processes unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &processes); err != nil {
		return fmt.Errorf("get limit of processes: %w", err)
	}
	if processes.Cur != unix.RLIM_INFINITY {
		processes.Cur /= 2
		processes.Max = processes.Cur
		p.call("set limit of processes", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NPROC, place(p, processes), 0)
	}
	// Of all signals, Go's runtime leaves only these two ignored if they were
	// so when it started; handlers go away by themselves. The kernel's
	// struct sigaction is 32 bytes, all zero for SIG_DFL.
	dfl := address(p.bytes(32))
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT} {
		p.call("reset "+unix.SignalName(sig), unix.SYS_RT_SIGACTION, uintptr(sig), dfl, 0, 8)
	}
	none := address(p.bytes(8))
	p.call("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, none, 0, 8)
	return nil
}

// setPersonality makes the same machine of all, and the same addresses in every
// build. Of the two, the filters of Docker and Podman allow the first only: there,
// addresses stay random, as they do for Nix.
func (p *program) setPersonality(flags uintptr) {
	p.call("set personality", unix.SYS_PERSONALITY, flags&^addrNoRandomize)
	p.call("keep addresses the same", unix.SYS_PERSONALITY, flags).least = math.MinInt
}
