package builder

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ownerConn is a spawner's connection to its owner, as a descriptor. Whoever
// reads from it waits in the kernel: Go's runtime would have two threads more
// between a frame that comes and the one that is locked to a thread for it.
type ownerConn int

// send writes f, which has no descriptor. Only one may write at a time. An owner
// that cannot be told has gone, or the kernel has no memory for it (ENOBUFS):
// then the connection ends, for both, as the owner would wait for that frame for ever.
func (c ownerConn) send(f frame) {
	for b := f.text(); len(b) > 0; {
		n, err := unix.SendmsgN(int(c), b, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			unix.Shutdown(int(c), unix.SHUT_RDWR)
			return
		}
		b = b[n:]
	}
}

// ReadMsgUnix is that of net.UnixConn, without an address.
func (c ownerConn) ReadMsgUnix(b, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error) {
	for {
		n, oobn, flags, _, err = unix.Recvmsg(int(c), b, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, oobn, flags, nil, os.NewSyscallError("recvmsg", err)
		}
	}
}
