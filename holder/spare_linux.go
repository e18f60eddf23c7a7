package holder

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// spare is what a server that stands by needs to go on with the mount alone, if its
// holder dies when it has told the server before to part.
type spare struct {
	files  []*os.File // what is held
	before *os.File   // a pidfd of the server before
	told   *os.File   // the end of a pipe whose other end that one was told with
}

// bequeath sends a spare to the next server, and returns what the current one is to
// be told with: nothing if it cannot be sent.
func (h *holder) bequeath() []*os.File {
	var ends [2]int
	if unix.Pipe2(ends[:], unix.O_CLOEXEC) != nil {
		return nil
	}
	read, write := os.NewFile(uintptr(ends[0]), "told"), os.NewFile(uintptr(ends[1]), "told")
	defer read.Close()
	fd, err := unix.FcntlInt(uintptr(h.current.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		before := os.NewFile(uintptr(fd), "before")
		defer before.Close()
		err = h.next.socket.send(packetSpare, "", append(h.files[:len(h.files):len(h.files)], before, read)...)
	}
	if err != nil {
		write.Close()
		return nil
	}
	return []*os.File{write}
}

func newSpare(p packet) *spare {
	n := len(p.files) - 2
	if n < 0 {
		closeAll(p.files)
		return &spare{}
	}
	return &spare{p.files[:n], p.files[n], p.files[n+1]}
}

func (s *spare) close() {
	closeAll(s.files)
	if s.told != nil {
		s.before.Close()
		s.told.Close()
	}
}

// parted reports, of a holder that has died, whether it had told the server before to
// part. Then that one has the other end of the pipe, or will find it in its socket,
// and starts no other holder. If nobody has it, it was not sent.
func (s *spare) parted() bool {
	if s.told == nil {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(s.told.Fd()), Events: unix.POLLIN}}
	err := again(func() error { _, err := unix.Poll(fds, int(partTime.Milliseconds())); return err })
	return err == nil && (fds[0].Revents == 0 || fds[0].Revents&unix.POLLIN != 0)
}

// take returns the files, which are the caller's, when the server before has ended. It
// ends soon, or is killed, which does no harm.
func (s *spare) take() []*os.File {
	fds := []unix.PollFd{{Fd: int32(s.before.Fd()), Events: unix.POLLIN}}
	for limit := int(partTime.Milliseconds()); ; {
		n, err := unix.Poll(fds, limit)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 0 {
			break
		}
		_ = unix.PidfdSendSignal(int(s.before.Fd()), unix.SIGKILL, nil, 0)
		limit = -1
	}
	files := s.files
	s.files = nil
	return files
}
