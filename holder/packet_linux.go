package holder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxPacket and maxFiles bound one packet.
const (
	maxPacket = 8 << 10
	maxFiles  = 16
)

type packet struct {
	kind  byte
	text  string
	files []*os.File
}

// socket is one end of the connection. Writers may be many; one reads.
type socket struct {
	file *os.File
	mu   sync.Mutex // of writers
}

func newPair() (ours *socket, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return newSocket(fds[0]), os.NewFile(uintptr(fds[1]), "holder"), nil
}

// newSocket reads and writes fd, which must not be the standard input.
func newSocket(fd int) *socket {
	unix.CloseOnExec(fd)
	// So that Close ends a read.
	_ = unix.SetNonblock(fd, true)
	return &socket{file: os.NewFile(uintptr(fd), "holder")}
}

func (s *socket) close() { s.file.Close() }

// maker is the process that made the pair, 0 if that is not to be had.
func (s *socket) maker() int {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// send sends a packet; the files stay the caller's.
func (s *socket) send(kind byte, text string, files ...*os.File) error {
	return s.write(true, kind, text, files...)
}

// try is send where there is room for the packet, else an error.
func (s *socket) try(kind byte, text string) error { return s.write(false, kind, text) }

func (s *socket) write(wait bool, kind byte, text string, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = again(func() error {
			return unix.Sendmsg(int(fd), append([]byte{kind}, text...), oob, nil, unix.MSG_NOSIGNAL)
		})
		return !wait || !errors.Is(sendErr, unix.EAGAIN)
	})
	return errors.Join(err, sendErr)
}

// receive waits for a packet. io.EOF: the other end is gone.
func (s *socket) receive() (packet, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return packet{}, err
	}
	b, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(maxFiles*4))
	var n, oobn int
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		recvErr = again(func() (err error) {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	if err = errors.Join(err, recvErr); err != nil {
		return packet{}, err
	}
	p := packet{}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return packet{}, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			p.files = append(p.files, os.NewFile(uintptr(fd), "held"))
		}
	}
	if n == 0 {
		return p, io.EOF
	}
	p.kind, p.text = b[0], string(b[1:n])
	return p, nil
}

// again repeats f when a signal interrupted it.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
