package state

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// writeCanonical writes a file as those of store objects are, under a name that
// nothing has. Nothing is left of it after an error. Package os would ask first
// whether it could wait for it, by five more system calls.
func writeCanonical(path string, text []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	for len(text) > 0 && err == nil {
		var n int
		if n, err = unix.Write(fd, text); errors.Is(err, unix.EINTR) {
			err = nil
			continue
		}
		text = text[max(n, 0):]
	}
	if err == nil {
		err = unix.Fchmod(fd, 0o444) // whatever the umask is
	}
	if e := unix.Close(fd); err == nil {
		err = e
	}
	if err == nil {
		second := unix.Timespec{Sec: 1}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{second, second}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		_ = unix.Unlink(path)
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
