package pressure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// psi is a trigger of /proc/pressure: a descriptor that becomes urgent
// (POLLPRI) when tasks have waited too long within a window. Go's poller does
// not know that condition, so that a thread waits in poll.
type psi struct {
	fd, wake int // wake is an eventfd that ends the wait
	once     sync.Once
}

func memoryTrigger() (trigger, error) { return openPSI("/proc/pressure/memory") }

func openPSI(path string) (*psi, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	text := fmt.Sprintf("some %d %d\x00", stall.Microseconds(), window.Microseconds())
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "write", Path: path, Err: err}
	}
	return newPSI(fd)
}

// newPSI takes fd over.
func newPSI(fd int) (*psi, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &psi{fd: fd, wake: wake}, nil
}

func (p *psi) wait(ctx context.Context) error {
	written := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(written)
		var one [8]byte
		one[0] = 1
		_, _ = unix.Write(p.wake, one[:])
	})
	defer func() {
		if !stop() {
			<-written // or it would be written into what is opened after Close
		}
	}()
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLPRI}, {Fd: int32(p.wake), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents&unix.POLLPRI != 0:
			return nil
		case fds[0].Revents != 0:
			return errors.New("the trigger is gone")
		}
	}
	return ctx.Err()
}

// Close must not be called while wait waits.
func (p *psi) Close() error {
	p.once.Do(func() {
		unix.Close(p.fd)
		unix.Close(p.wake)
	})
	return nil
}
