package builder

import (
	"encoding/json"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// namespaces are all those that a sandbox has of its own, but for the network
// that a fixed output needs. One call makes them, for root and ordinary users
// alike.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// child is a process that is or becomes a builder.
type child struct {
	// reports is closed after the last one. There is room for all of them.
	reports <-chan report
	start   func() // after saysReady; nil: it waits for nothing, and what hinders it is told
	kill    func()
	// grant and relay are for one that is held until its turn; nil: it is not.
	grant func()
	relay func(Relay)
	pid   int // 0 if it is a spawner's
	// See stepBack.
	idle bool // its policy is changed, too
	nice int  // of its session
}

// report is what is heard of a child.
type report struct {
	message
	ending ending     // with saysEnded
	next   store.Path // with saysEnded: what was started in its place, "" if nothing was
}

// maxReports is the most reports that one child can give.
const maxReports = 4

// spawnSelf starts a child that follows s and writes what the builder writes to
// log. The child runs this program again: what a forked child of a Go program can
// do without that is next to nothing. It works wherever sandboxes work, and takes
// ten times as long as a spawner.
func spawnSelf(s *spec, ids identity, log *os.File) (*child, error) {
	reports := make(chan report, maxReports)
	control, theirs, err := controlSockets()
	if err != nil {
		return nil, err
	}
	var process *os.Process
	started := make(chan error)
	go func() {
		defer close(reports)
		defer control.Close()
		// The child dies with the thread that made it, not with the process:
		// this one has to live for as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var err error
		process, err = startSelf(s, ids, log, theirs)
		theirs.Close()
		started <- err
		if err != nil {
			return
		}
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			listen(control, reports)
		}()
		var last report
		state, err := process.Wait()
		<-heard
		if err != nil {
			last.message = message{says: saysFailed, text: err.Error()}
		} else {
			last.says = saysEnded
			last.ending.status = unix.WaitStatus(state.Sys().(syscall.WaitStatus))
		}
		reports <- last
	}()
	if err := <-started; err != nil {
		return nil, diagnose("start a sandbox: "+err.Error(), errnoOf(err))
	}
	return &child{
		reports: reports,
		// One byte, whichever. A child that cannot be told has died, and is told
		// of otherwise; or it waits for ever, and is ended.
		start: func() {
			if _, err := control.Write([]byte{0}); err != nil {
				_ = process.Kill()
			}
		},
		kill: func() { _ = process.Kill() },
		pid:  process.Pid,
	}, nil
}

// controlSockets are the two ends of a child's control socket.
func controlSockets() (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "control")
	// Only a descriptor that does not block can be read without a thread.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		theirs.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(pair[0]), "control"), theirs, nil
}

func startSelf(s *spec, ids identity, log, control *os.File) (*os.Process, error) {
	text, err := specFile(s)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	flags := uintptr(namespaces)
	if !s.Network {
		flags |= unix.CLONE_NEWNET
	}
	return os.StartProcess("/proc/self/exe", []string{childName}, &os.ProcAttr{
		Dir: "/",
		Env: []string{},
		Files: []*os.File{
			0: null, 1: log, 2: log,
			specFD: text, controlFD: control,
		},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 flags,
			UidMappings:                ids.uids,
			GidMappings:                ids.gids,
			GidMappingsEnableSetgroups: ids.setgroups,
			AmbientCaps:                setUpCaps(),
			Setsid:                     true,
		},
	})
}

// specFile is s in a file that has no name.
func specFile(s *spec) (*os.File, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "spec")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
