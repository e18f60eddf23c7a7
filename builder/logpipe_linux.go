package builder

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// logBuffer is what a log is read into. A new one for each build would be most of
// the garbage of a build.
type logBuffer [64 << 10]byte

// logPipe makes a pipe whose first end can be waited for. The other is a builder's,
// which expects that it blocks. Package os would make both ends like the first.
func logPipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	err = unix.SetNonblock(p[0], true)
	r, w = os.NewFile(uintptr(p[0]), "log"), os.NewFile(uintptr(p[1]), "log")
	if err != nil {
		r.Close()
		w.Close()
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return r, w, nil
}

// readLog takes the builder's output until its end, the deadline of f, or an
// error that ends the build.
func (b *build) readLog(f *os.File, buf *logBuffer) error {
	for {
		n, err := f.Read(buf[:])
		if n > 0 {
			if err := b.log.write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("read the builder's output: %w", err)
		}
	}
}

// maxPipe is the most that an ordinary user's pipe can hold, and so the most
// that is left in it when its writers are dead.
const maxPipe = 1 << 20

// drainLog takes what is in the pipe, and waits for no more.
func (b *build) drainLog(f *os.File, buf *logBuffer) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = conn.Control(func(fd uintptr) {
		for left := maxPipe; left > 0 && failure == nil; {
			n, err := unix.Read(int(fd), buf[:])
			if err == unix.EINTR {
				continue
			}
			if n <= 0 || err != nil {
				return
			}
			left -= n
			failure = b.log.write(buf[:n])
		}
	})
	return errors.Join(err, failure)
}
