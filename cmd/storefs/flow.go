package main

import (
	"context"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"storefs/outlet"
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
	n, err := await(f.ctx, transfer)
	if f.ctx.Err() != nil {
		f.buf = nil // a further call must not meet this one
	}
	return n, err
}

// await returns what call does, or why ctx ended before that: call goes on until
// the process has ended. It is for system calls about files that others name: what
// lies in a mounted store may have to be built first, and a thread that waits for
// that in the kernel hears of no signal that the process handles.
func await[T any](ctx context.Context, call func() (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := call()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// news is what a command says to file while it works. Where nobody reads that, a signal
// ends the wait for it, and unread keeps all from being said that comes later.
type news struct {
	a      *app
	file   *os.File
	unread *atomic.Bool
}

// slowness is how long something said may still take when a signal has come, or a server
// ends: where somebody reads, it is there by then.
const slowness = time.Second

func (w news) Write(p []byte) (int, error) {
	if w.unread.Load() {
		return len(p), nil
	}
	said := slices.Clone(p) // p is not anybody's afterwards
	written := make(chan error, 1)
	go func() {
		_, err := w.file.Write(said)
		written <- err
	}()
	select {
	case err := <-written:
		return len(p), err
	case <-w.a.soft.Done(): // or it has come before, and what ends tells of that
	case <-w.a.hard.Done():
	}
	select {
	case err := <-written:
		return len(p), err
	case <-time.After(slowness):
		w.unread.Store(true)
		return len(p), nil
	}
}

// news is for stderr.
func (a *app) news() io.Writer {
	if a.outlet != nil {
		return a.outlet
	}
	return news{a, a.stderr, &a.unread}
}

// serves has what this process says from here on keep nobody waiting: it is a server.
func (a *app) serves() { a.outlet = outlet.New(a.stderr, messages(a)) }

// flush ends that, before the process does.
func (a *app) flush() {
	if a.outlet != nil {
		a.outlet.Flush(slowness)
	}
}
