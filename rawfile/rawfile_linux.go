// Package rawfile opens and reads files by the system calls that this takes.
// Package os asks the kernel first whether it could wait for each file that it
// opens, which is five more, and the answer for files is no.
package rawfile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Open is os.OpenFile for files and directories, and follows no link in the last
// place with unix.O_NOFOLLOW among flags.
func Open(path string, flags int, mode uint32) (*os.File, error) {
	fd, err := open(path, flags, mode)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Read is os.ReadFile of what is expected to have fewer than size bytes.
func Read(path string, size int) ([]byte, error) { return ReadInto(path, make([]byte, 0, size)) }

// ReadInto is Read into the room that b has, or more.
func ReadInto(path string, b []byte) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY, 0)
	if err != nil {
		return b[:0], err
	}
	defer unix.Close(fd)
	b = b[:0]
	for {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, 2*cap(b)+1), b...)
		}
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return b, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b, nil
		default:
			b = b[:len(b)+n]
		}
	}
}

// Write makes a file that there is not yet, with that mode whatever the umask is.
func Write(path string, text []byte, mode uint32) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
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
		err = unix.Fchmod(fd, mode)
	}
	if e := unix.Close(fd); err == nil {
		err = e
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}
