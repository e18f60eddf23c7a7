package fs

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// inputSize is that of a buffer for one request. Nobody writes to the
	// mount, so no request is longer than a name and its surroundings; the
	// kernel wants at least 8 KiB, and sends as many forgets together as fit.
	inputSize = 32 << 10
	// maxWrite is what the kernel is told to send at most to be written.
	maxWrite = 4096
	// noMemoryPause is how long a reader leaves the memory to others when there is none.
	noMemoryPause = 100 * time.Millisecond
)

// transport moves requests from the kernel to an answerer, and answers back. It
// is a server's, and the connection is not: go-fuse's own server would be both
// in one, and could neither begin with a connection that is there already nor
// leave one alive.
//
// It reads through pipes. The kernel hands a request even to a thread that is
// being killed, if that was waiting for one. If it cannot copy it to the thread's
// memory then, because the page is not there and the dying get none, whoever
// waits for the answer gets EIO. Into a pipe it can always copy, and the request
// is one that was read and not answered: it is repeated to the next server.
type transport struct {
	device   *device
	answerer *answerer
	log      *slog.Logger

	inputs chan *input
	crew   *crew
	loops  sync.WaitGroup
	ended  func()

	// answers is held shared while one is written.
	answers sync.RWMutex
	parted  bool // guarded by answers
}

// newTransport agrees with the kernel on how to talk, or, with a connection
// that was served before, to what was agreed then.
func newTransport(d *device, r *raw, counts *counted, o *fuse.MountOptions, log *slog.Logger) (*transport, error) {
	opts := *o
	opts.MaxWrite = maxWrite
	if d.reply != nil {
		// What this connection has not, no later server can have.
		opts.DisabledCapabilities |= ^d.flags()
	}
	processors := runtime.GOMAXPROCS(0)
	t := &transport{
		device:   d,
		answerer: newAnswerer(r, counts, &opts, processors),
		log:      log,
		inputs:   make(chan *input, min(max(processors, 2), 16)),
	}
	// With two processors, another reader would only be in the callers' way.
	var pending func() bool
	if processors > 2 {
		pending = d.pending
	}
	t.crew = newCrew(cap(t.inputs), func() { t.loops.Go(t.loop) }, pending)
	r.relieve = t.crew.relieve
	reply := make([]byte, answerSize)
	n, status := t.answerer.protocol.HandleRequest([][]byte{slices.Clone(d.init)}, [][]byte{reply})
	if !status.Ok() || n < outHeader {
		return nil, fmt.Errorf("answer the kernel's first request: %v", status)
	}
	reply = reply[:n]
	if d.reply == nil {
		// go-fuse derives it from what may be written.
		at := outHeader + unsafe.Offsetof(fuse.InitOut{}.MaxPages)
		binary.NativeEndian.PutUint16(reply[at:], uint16(maxRead/unix.Getpagesize()))
		if _, err := retry(func() (int, error) { return unix.Write(d.fd(), reply) }); err != nil {
			return nil, fmt.Errorf("answer the kernel's first request: %w", err)
		}
		d.reply = reply
	}
	for range cap(t.inputs) {
		p, err := newPipe()
		if err != nil {
			t.close()
			return nil, err
		}
		t.inputs <- &input{p, make([]byte, inputSize)}
	}
	return t, nil
}

// input is what one request is read with.
type input struct {
	*pipe
	buf []byte
}

// close ends a transport that nobody uses.
func (t *transport) close() {
	if t == nil {
		return
	}
	for len(t.inputs) > 0 {
		(<-t.inputs).close()
	}
	t.answerer.pipes.close()
}

// serve answers requests until the mount ends, which ended is told before the
// last answers are waited for.
func (t *transport) serve(ended func()) {
	t.ended = ended
	t.crew.begin()
	t.loops.Wait()
	t.close()
}

// loop reads a request and answers it, again and again.
func (t *transport) loop() {
	q := t.answerer.inflight.add()
	defer t.answerer.inflight.remove(q)
	for {
		err := t.read(q)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN, err == unix.ENOENT:
			continue // ENOENT: it was interrupted before it could be read
		case err == unix.ENOMEM:
			// The kernel has answered that one with EIO itself.
			t.log.Warn("the kernel had no memory for a request", "error", err)
			time.Sleep(noMemoryPause)
			continue
		case err != nil:
			if err != unix.ENODEV {
				t.log.Error("reading the kernel's requests failed", "error", err)
			}
			t.ended()
			t.crew.end()
			return
		}
		t.answers.RLock()
		parted := t.parted
		t.answers.RUnlock()
		code := q.header().Opcode
		forgets := code == codeForget || code == codeBatchForget
		if parted {
			// The next server will be asked this again, unless nobody waits for an
			// answer.
			if forgets {
				t.answerer.answer(q)
			}
			t.crew.end()
			return
		}
		t.crew.took(!forgets)
		begin := time.Now()
		t.write(q, t.answerer.answer(q))
		t.answerer.end(q)
		if !t.crew.back(time.Since(begin)) {
			return
		}
	}
}

func (t *transport) read(q *request) error {
	in := <-t.inputs
	defer func() { t.inputs <- in }()
	if _, err := unix.Splice(t.device.fd(), nil, in.to, nil, inputSize, 0); err != nil {
		return err
	}
	n, err := retry(func() (int, error) { return unix.Read(in.from, in.buf) })
	if err != nil {
		return fmt.Errorf("read from a pipe: %w", err)
	}
	if n < requestHeader {
		return fmt.Errorf("read from a pipe: %d bytes: %w", n, io.ErrUnexpectedEOF)
	}
	q.set(in.buf[:n])
	return nil
}

// write sends an answer, if there is one and the server has not parted
// meanwhile.
func (t *transport) write(q *request, answer []byte) {
	if answer == nil && q.pipe == nil {
		return
	}
	t.answers.RLock()
	defer t.answers.RUnlock()
	if t.parted {
		return
	}
	var err error
	if q.pipe != nil {
		err = q.pipe.send(t.device.fd())
	} else {
		_, err = retry(func() (int, error) { return unix.Write(t.device.fd(), answer) })
	}
	// ENOENT: whoever asked is gone, or an interrupt came too late.
	if err != nil && err != unix.ENOENT && err != unix.ENODEV {
		t.log.Error("an answer was not taken by the kernel", "operation", q.header().Opcode, "error", err)
		// Whoever waits for it would wait for ever.
		_, _ = retry(func() (int, error) { return unix.Write(t.device.fd(), q.fail(fuse.EIO)) })
	}
}

// part makes sure that no answer reaches the kernel any more. What has been
// read and not answered by now is the next server's.
func (t *transport) part() {
	t.answers.Lock()
	t.parted = true
	t.answers.Unlock()
}
