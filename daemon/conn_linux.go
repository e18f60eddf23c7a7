package daemon

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unread is how much memory takes what the client has not read yet; 0 if that cannot be told.
func (c *conn) unread() (bytes int) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { bytes, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return bytes
}
