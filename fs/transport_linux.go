package fs

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
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
	// answerSize is enough for all answers whose size does not follow from
	// the request: a link's target is the longest.
	answerSize = 8 << 10
)

// transport moves requests from the kernel to go-fuse's protocol, and answers
// back. It is a server's, and the connection is not: go-fuse's own server would
// be both in one, and could neither begin with a connection that is there
// already nor leave one alive.
//
// It reads through pipes. The kernel hands a request even to a thread that is
// being killed, if that was waiting for one. If it cannot copy it to the thread's
// memory then, because the page is not there and the dying get none, whoever
// waits for the answer gets EIO. Into a pipe it can always copy, and the request
// is one that was read and not answered: it is repeated to the next server.
type transport struct {
	device   *device
	protocol *fuse.ProtocolServer
	log      *slog.Logger

	inputs chan *input
	small  sync.Pool // of *[]byte, answerSize long
	large  sync.Pool // of *[]byte, answerSize+maxRead long

	loops   sync.WaitGroup
	mu      sync.Mutex
	reading int // goroutines that read, or are about to

	// answers is held shared while one is written.
	answers sync.RWMutex
	parted  bool // guarded by answers
}

// newTransport agrees with the kernel on how to talk, or, with a connection
// that was served before, to what was agreed then.
func newTransport(d *device, raw fuse.RawFileSystem, o *fuse.MountOptions, log *slog.Logger) (*transport, error) {
	opts := *o
	opts.MaxWrite = maxWrite
	if d.reply != nil {
		// What this connection has not, no later server can have.
		opts.DisabledCapabilities |= ^d.flags()
	}
	t := &transport{
		device:   d,
		protocol: fuse.NewProtocolServer(raw, &opts),
		log:      log,
		inputs:   make(chan *input, min(max(runtime.GOMAXPROCS(0), 2), 16)),
		small:    sync.Pool{New: func() any { b := make([]byte, answerSize); return &b }},
		large:    sync.Pool{New: func() any { b := make([]byte, answerSize+maxRead); return &b }},
	}
	reply := make([]byte, answerSize)
	n, status := t.protocol.HandleRequest([][]byte{slices.Clone(d.init)}, [][]byte{reply})
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
		in, err := newInput()
		if err != nil {
			t.close()
			return nil, err
		}
		t.inputs <- in
	}
	return t, nil
}

// input is what one request is read with.
type input struct {
	from, to int // the ends of a pipe
	buf      []byte
}

func newInput() (*input, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	return &input{p[0], p[1], make([]byte, inputSize)}, nil
}

// close ends a transport that nobody uses.
func (t *transport) close() {
	if t == nil {
		return
	}
	for len(t.inputs) > 0 {
		in := <-t.inputs
		unix.Close(in.from)
		unix.Close(in.to)
	}
}

// serve answers requests until the mount ends, which ended is told before the
// last answers are waited for.
func (t *transport) serve(ended func()) {
	t.reading = 1
	t.loops.Go(func() { t.loop(ended) })
	t.loops.Wait()
	t.close()
}

// loop reads a request and answers it, again and again. Before it answers, it
// makes sure that somebody else reads.
func (t *transport) loop(ended func()) {
	for {
		request, err := t.read()
		switch {
		case err == unix.EINTR, err == unix.EAGAIN, err == unix.ENOENT:
			continue // ENOENT: it was interrupted before it could be read
		case err != nil:
			if err != unix.ENODEV {
				t.log.Error("reading the kernel's requests failed", "error", err)
			}
			ended()
			return
		}
		t.answers.RLock()
		parted := t.parted
		t.answers.RUnlock()
		if parted {
			return // the next server will be asked this again
		}
		t.mu.Lock()
		t.reading--
		if t.reading == 0 && !forgets(request) {
			t.reading++
			t.loops.Go(func() { t.loop(ended) })
		}
		t.mu.Unlock()

		t.answer(request)

		t.mu.Lock()
		enough := t.reading >= cap(t.inputs)
		if !enough {
			t.reading++
		}
		t.mu.Unlock()
		if enough {
			return
		}
	}
}

func (t *transport) read() ([]byte, error) {
	in := <-t.inputs
	defer func() { t.inputs <- in }()
	if _, err := unix.Splice(t.device.fd(), nil, in.to, nil, inputSize, 0); err != nil {
		return nil, err
	}
	n, err := retry(func() (int, error) { return unix.Read(in.from, in.buf) })
	if err != nil {
		return nil, fmt.Errorf("read from a pipe: %w", err)
	}
	return slices.Clone(in.buf[:n]), nil
}

// Of struct fuse_in_header, which all requests begin with.
const (
	requestHeader = 40
	opAt          = 4
	uniqueAt      = 8
)

// Requests by their numbers.
const (
	codeForget      = 2
	codeRead        = 15
	codeGetXAttr    = 22
	codeListXAttr   = 23
	codeReadDir     = 28
	codeIoctl       = 39
	codeBatchForget = 42
	codeReadDirPlus = 44
)

func codeOf(request []byte) uint32 { return binary.NativeEndian.Uint32(request[opAt:]) }

// forgets reports whether nobody waits for an answer: then the kernel need not
// get rid of more of them at once.
func forgets(request []byte) bool {
	code := codeOf(request)
	return code == codeForget || code == codeBatchForget
}

// wanted is how many bytes a request asks for.
func wanted(request []byte) int {
	at := 0
	switch codeOf(request) {
	case codeRead, codeReadDir, codeReadDirPlus:
		at = requestHeader + 16 // after the handle and the offset
	case codeGetXAttr, codeListXAttr:
		at = requestHeader
	case codeIoctl:
		at = requestHeader + 28
	}
	if at == 0 || len(request) < at+4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(request[at:]))
}

// answer answers one request, unless the server has parted meanwhile.
func (t *transport) answer(request []byte) {
	pool, size := &t.small, wanted(request)
	if size > answerSize/2 {
		pool = &t.large
	}
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	out := *buf
	if size > maxRead {
		out = make([]byte, answerSize+size)
	}
	n, status := t.protocol.HandleRequest([][]byte{request}, [][]byte{out})
	if !status.Ok() {
		n = len(appendHeader(out[:0], outHeader, -int32(status), binary.NativeEndian.Uint64(request[uniqueAt:])))
	}
	if n == 0 {
		return // nobody waits for it
	}
	t.answers.RLock()
	defer t.answers.RUnlock()
	if t.parted {
		return
	}
	// ENOENT: whoever asked is gone, or an interrupt came too late.
	_, err := retry(func() (int, error) { return unix.Write(t.device.fd(), out[:n]) })
	if err != nil && err != unix.ENOENT && err != unix.ENODEV {
		t.log.Error("an answer was not taken by the kernel", "operation", codeOf(request), "error", err)
	}
}

// part makes sure that no answer reaches the kernel any more. What has been
// read and not answered by now is the next server's.
func (t *transport) part() {
	t.answers.Lock()
	t.parted = true
	t.answers.Unlock()
}
