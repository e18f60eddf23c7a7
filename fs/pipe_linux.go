package fs

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// pipeSize is what a pipe for an answer holds: the most that an ordinary user
// gets. Each page takes one place in it, and so does the header.
const pipeSize = 1 << 20

// pipe is one of the server's own, through which the kernel moves what this
// process need not see.
type pipe struct {
	from, to int // its ends
	filled   int // bytes of an answer that were not sent
}

// trySplice reports whether this process may splice, without which no request can be read.
func trySplice() error {
	// Nothing, from nowhere: the kernel does not look at the rest.
	if _, err := unix.Splice(-1, nil, -1, nil, 0, 0); err != nil {
		return fmt.Errorf("splice does not work here, it needs no filter against it: %w", err)
	}
	return nil
}

func newPipe() (*pipe, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &pipe{from: p[0], to: p[1]}, nil
}

func (p *pipe) close() {
	unix.Close(p.from)
	unix.Close(p.to)
}

// fill puts an answer into the pipe: the header for the request unique, and
// size bytes of a file. After an error the pipe is of no use.
func (p *pipe) fill(unique uint64, fd int, offset int64, size int) error {
	b := appendHeader(make([]byte, 0, outHeader), outHeader+size, 0, unique)
	p.filled = len(b)
	if _, err := retry(func() (int, error) { return unix.Write(p.to, b) }); err != nil {
		return err
	}
	for size > 0 {
		// It must not wait for room: nobody takes anything out before it is all there.
		n, err := unix.Splice(fd, &offset, p.to, nil, size, unix.SPLICE_F_NONBLOCK)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		p.filled += int(n)
		size -= int(n)
	}
	return nil
}

// send gives the kernel the answer that the pipe is filled with.
func (p *pipe) send(device int) error {
	n, err := unix.Splice(p.from, nil, device, nil, p.filled, 0)
	p.filled -= int(max(n, 0))
	return err
}

// pipes are those that answers go through.
type pipes chan *pipe

// get lends a pipe of pipeSize, or returns nil if there is none to have: then
// answers go through memory.
func (s pipes) get() *pipe {
	select {
	case p := <-s:
		return p
	default:
	}
	p, err := newPipe()
	if err != nil {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(p.to), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.close()
		return nil
	}
	return p
}

// put takes it back.
func (s pipes) put(p *pipe) {
	if p.filled == 0 {
		select {
		case s <- p:
			return
		default:
		}
	}
	p.close()
}

func (s pipes) close() {
	for len(s) > 0 {
		(<-s).close()
	}
}
