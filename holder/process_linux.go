package holder

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server, as its holder sees it.
type process struct {
	pid    int
	pidfd  int
	socket *socket
	// child is false for one that was there before its holder.
	child bool

	readyAt time.Time // zero until it is
	stands  bool      // it is waiting for its turn
	ending  bool      // it is giving the mount up
	parted  bool      // it was told to leave the mount to the next one
}

// start starts program as a server with these arguments, in a session of its
// own: signals of a terminal reach it through the holder only, once. What first,
// if not nil, sends is in its socket before it lives, and so is its own, even if
// this process is killed at any moment.
func start(program string, args, env []string, first func(*socket) error) (*process, error) {
	ours, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if first != nil {
		if err := first(ours); err != nil {
			ours.close()
			return nil, err
		}
	}
	p := &process{pidfd: -1, socket: ours, child: true}
	child, err := os.StartProcess(program, args, &os.ProcAttr{
		Env:   append(env, envLink+"=3"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
		Sys:   &unix.SysProcAttr{Setsid: true, PidFD: &p.pidfd},
	})
	if err != nil {
		ours.close()
		return nil, err
	}
	p.pid = child.Pid
	_ = child.Release() // it is waited for by its pidfd
	if p.pidfd < 0 {
		return nil, errors.New("the kernel has no pidfd: Linux 5.3 or later is needed")
	}
	return p, nil
}

func (p *process) signal(s unix.Signal) error { return unix.PidfdSendSignal(p.pidfd, s, nil, 0) }

// kill ends p and, where the kernel can, what p has started itself.
func (p *process) kill() {
	if unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP) != nil { // Linux 6.9
		_ = p.signal(unix.SIGKILL)
	}
}

// wait returns when p has died. Of one that is not a child of this process it is not known how.
func (p *process) wait() death {
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if !p.child {
		return death{status: 1, how: "it was no child of this process"}
	}
	var ws unix.WaitStatus
	if err := again(func() error { _, err := unix.Wait4(p.pid, &ws, 0, nil); return err }); err != nil {
		return death{status: 1, how: err.Error()}
	}
	if ws.Signaled() {
		return death{status: 128 + int(ws.Signal()), how: ws.Signal().String(), killed: true}
	}
	return death{status: ws.ExitStatus(), how: "exit status " + strconv.Itoa(ws.ExitStatus())}
}

func (p *process) close() {
	p.socket.close()
	unix.Close(p.pidfd)
}

// death is how a process ended.
type death struct {
	status int
	how    string
	killed bool // by a signal
}

// quick reports whether p died too soon to have been of use.
func (p *process) quick() bool { return p.readyAt.IsZero() || time.Since(p.readyAt) < stable }

// passed is a process as text, with what its descriptors will be, for the
// program that this process is about to become.
func (p *process) passed(c *copies) (string, error) {
	raw, err := p.socket.file.SyscallConn()
	if err != nil {
		return "", err
	}
	var fd, pidfd int
	if e := raw.Control(func(s uintptr) { fd, err = c.add(s) }); e != nil || err != nil {
		return "", fmt.Errorf("duplicate the socket: %w", errors.Join(e, err))
	}
	if pidfd, err = c.add(uintptr(p.pidfd)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %d %d %t", p.pid, pidfd, fd, p.child), nil
}

// copies are duplicates of descriptors, for the program that this process is about to
// become. If it does not, they have to be closed: servers that it starts must not have
// them.
type copies []int

func (c *copies) add(fd uintptr) (int, error) {
	dup, err := unix.FcntlInt(fd, unix.F_DUPFD, 0)
	if err == nil {
		*c = append(*c, dup)
	}
	return dup, err
}

func (c *copies) close() {
	for _, fd := range *c {
		unix.Close(fd)
	}
}
