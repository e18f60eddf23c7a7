package main

import (
	"context"
	"os"
)

// flow is a file that a command reads, or writes, as much of as there is. Who is
// at its other end may take any time, and a signal ends the wait for that: the
// system call that waits goes on in a goroutine, with a buffer that nobody else
// uses, until the process has ended.
type flow struct {
	ctx  context.Context
	file *os.File
	buf  []byte
}

func (f *flow) Read(p []byte) (int, error) {
	if cap(f.buf) < len(p) {
		f.buf = make([]byte, len(p))
	}
	buf := f.buf[:len(p)]
	n, err := f.wait(func() (int, error) { return f.file.Read(buf) })
	return copy(p, buf[:n]), err
}

func (f *flow) Write(p []byte) (int, error) {
	f.buf = append(f.buf[:0], p...)
	buf := f.buf
	return f.wait(func() (int, error) { return f.file.Write(buf) })
}

// wait returns what transfer does, or why nobody waits for it any more: then f
// is not to be used again.
func (f *flow) wait(transfer func() (int, error)) (int, error) {
	if f.ctx.Err() != nil {
		return 0, context.Cause(f.ctx)
	}
	type transferred struct {
		n   int
		err error
	}
	done := make(chan transferred, 1)
	go func() {
		n, err := transfer()
		done <- transferred{n, err}
	}()
	select {
	case t := <-done:
		return t.n, t.err
	case <-f.ctx.Done():
		f.buf = nil // a further call must not meet this one
		return 0, context.Cause(f.ctx)
	}
}
