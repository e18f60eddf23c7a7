package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// heldName is a file whose lock says that the state belongs to a mount, also
// while the mount's server is dead and another one is on its way: nobody else
// may become the owner in between. The lock is that of an open file, which is
// passed on from server to server.
const heldName = "held"

// Hold claims the state for a mount. The claim lasts as long as any process has
// the file open. It fails with an *InUseError if another mount has one.
func (s *State) Hold() (*os.File, error) {
	f, err := os.OpenFile(s.path(heldName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", s.dir, err)
	}
	// A lock of the open file, not of the process; which, other than flock's,
	// can be asked for without taking it.
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, &InUseError{Dir: s.dir, Command: "a mount whose server is being started again"}
	}
	return nil, fmt.Errorf("state %s: lock %s: %w", s.dir, heldName, err)
}

// Held reports whether the state directory belongs to a mount, which has a
// server or will have one soon.
func Held(dir string) bool {
	f, err := os.Open(filepath.Join(dir, heldName))
	if err != nil {
		return false
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}
