package builder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// frame is what a Local and its spawner tell each other, over a stream.
type frame struct {
	kind byte
	id   uint64 // of the build; of one's own choice
	body []byte
	fd   int // it comes along; -1: none, or it was lost
}

// Kinds of frames.
const (
	// To the spawner.
	frameConfig = 'c' // the first: a spawnerConfig as JSON
	frameBuild  = 'b' // a launch, with the descriptor of its log
	frameKill   = 'k'
	frameForget = 'f' // the id is that of a scratch directory that goes
	frameRelay  = 'y' // of a launch that is held: a Relay
	frameGo     = 'g' // a launch is not held any more

	// From it.
	frameReady  = 'r' // the first: it can make sandboxes
	frameEnded  = 'e' // an ending
	frameFailed = 'x' // a message; nothing of the sandbox is left
)

const (
	frameHeader = 16
	// maxFrame is a bound on what a length can be, in bytes: the kernel's on
	// arguments and environment, and as many names of inputs.
	maxFrame = 64 << 20
)

// text is f as it is sent, but for its descriptor.
func (f frame) text() []byte {
	b := make([]byte, frameHeader, frameHeader+len(f.body))
	binary.LittleEndian.PutUint32(b, uint32(len(f.body)))
	b[4] = f.kind
	binary.LittleEndian.PutUint64(b[8:], f.id)
	return append(b, f.body...)
}

// send writes f. Only one may write at a time.
func (f frame) send(conn *net.UnixConn) error {
	b := f.text()
	if f.fd < 0 {
		_, err := conn.Write(b)
		return err
	}
	n, _, err := conn.WriteMsgUnix(b, unix.UnixRights(f.fd), nil)
	if err == nil && n < len(b) {
		_, err = conn.Write(b[n:])
	}
	return err
}

// frameSource is what frames come from: a connection.
type frameSource interface {
	ReadMsgUnix(b, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error)
}

// frameReader reads frames.
type frameReader struct {
	conn frameSource
	buf  []byte // what was read and not yet handed on
	oob  []byte
	fds  []int // likewise; -1: one that was lost
}

func newFrameReader(conn frameSource) *frameReader {
	return &frameReader{conn: conn, buf: make([]byte, 0, 16<<10), oob: make([]byte, unix.CmsgSpace(4*8))}
}

// next reads a frame, whose body is good until the next call. Its descriptor
// belongs to the caller. A launch has none if this process could not have one more.
func (r *frameReader) next() (f frame, err error) {
	if err := r.fill(frameHeader); err != nil {
		return f, err
	}
	size := int(binary.LittleEndian.Uint32(r.buf))
	if size > maxFrame {
		return f, fmt.Errorf("a frame of %d bytes", size)
	}
	if err := r.fill(frameHeader + size); err != nil {
		return f, err
	}
	f = frame{kind: r.buf[4], id: binary.LittleEndian.Uint64(r.buf[8:]), body: r.buf[frameHeader : frameHeader+size], fd: -1}
	r.buf = r.buf[frameHeader+size:]
	if f.kind == frameBuild {
		// Each of these has one, and they come in order.
		if len(r.fds) == 0 {
			return f, errShortFrame
		}
		f.fd, r.fds = r.fds[0], r.fds[1:]
	}
	return f, nil
}

// has reports whether a frame, or the beginning of one, is there already.
func (r *frameReader) has() bool { return len(r.buf) > 0 }

// fill reads until n bytes are there.
func (r *frameReader) fill(n int) error {
	for len(r.buf) < n {
		if cap(r.buf) < n || len(r.buf) == cap(r.buf) {
			r.buf = append(make([]byte, 0, max(n, 16<<10)), r.buf...)
		}
		got, oobn, flags, _, err := r.conn.ReadMsgUnix(r.buf[len(r.buf):cap(r.buf)], r.oob)
		if err != nil {
			return err
		}
		if got == 0 {
			return io.EOF
		}
		r.buf = r.buf[:len(r.buf)+got]
		fds, err := rights(r.oob[:oobn])
		if err != nil {
			return err
		}
		r.fds = append(r.fds, fds...)
		if flags&unix.MSG_CTRUNC != 0 {
			// Each message has one, and what is read at a time has those of one.
			r.fds = append(r.fds, -1)
		}
	}
	return nil
}

// rights are the descriptors in the control messages that came with others.
func rights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		more, e := unix.ParseUnixRights(&m)
		fds, err = append(fds, more...), errors.Join(err, e)
	}
	return fds, os.NewSyscallError("recvmsg", err)
}

// launch is a build as the spawner sees it.
type launch struct {
	scratch string // base name in the directory of scratch directories
	number  uint64 // of the scratch directory, whatever its name
	// stubs changes with what stands in the scratch's store directory to mount
	// inputs on.
	stubs       uint64
	inputs      []string // base names of those that are mounted
	personality uintptr
	held        bool  // until frameGo, or until it takes the place of another
	pool        byte  // see Job
	heir        int64 // likewise
	builder     string
	args, env   []string
}

func (l *launch) append(b []byte) []byte {
	size := 64
	for _, list := range [][]string{{l.scratch, l.builder}, l.args, l.env, l.inputs} {
		for _, s := range list {
			size += 4 + len(s)
		}
	}
	b = slices.Grow(b, size)
	b = binary.LittleEndian.AppendUint64(b, l.number)
	b = binary.LittleEndian.AppendUint64(b, l.stubs)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.personality))
	b = binary.LittleEndian.AppendUint64(b, uint64(l.heir))
	b = append(b, l.pool, flag(l.held))
	for _, list := range [][]string{{l.scratch, l.builder}, l.args, l.env, l.inputs} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
		for _, s := range list {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
	}
	return b
}

var errShortFrame = errors.New("a frame is too short")

func parseLaunch(b []byte) (*launch, error) {
	var err error
	take := func(n int) []byte {
		if n > len(b) {
			err, b = errShortFrame, nil
			return make([]byte, min(n, 8)) // no number is longer
		}
		taken := b[:n]
		b = b[n:]
		return taken
	}
	l := &launch{
		number:      binary.LittleEndian.Uint64(take(8)),
		stubs:       binary.LittleEndian.Uint64(take(8)),
		personality: uintptr(binary.LittleEndian.Uint64(take(8))),
		heir:        int64(binary.LittleEndian.Uint64(take(8))),
	}
	flags := take(2)
	l.pool, l.held = flags[0], flags[1] != 0
	var names []string
	for _, list := range []*[]string{&names, &l.args, &l.env, &l.inputs} {
		n := int(binary.LittleEndian.Uint32(take(4)))
		*list = slices.Grow(*list, min(n, len(b)/4))
		for i := 0; i < n && err == nil; i++ {
			*list = append(*list, string(take(int(binary.LittleEndian.Uint32(take(4))))))
		}
	}
	if err != nil || len(names) != 2 {
		return nil, errShortFrame
	}
	l.scratch, l.builder = names[0], names[1]
	return l, nil
}

// ending is how a process of the spawner ended.
type ending struct {
	status        unix.WaitStatus
	started, took int64  // nanoseconds: since 1970; from the exec on
	next          uint64 // the build that was started in its place; 0: none
}

func (e ending) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(e.status))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.started))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.took))
	return binary.LittleEndian.AppendUint64(b, e.next)
}

func parseEnding(b []byte) (e ending, err error) {
	if len(b) != 28 {
		return e, errShortFrame
	}
	return ending{
		status:  unix.WaitStatus(binary.LittleEndian.Uint32(b)),
		started: int64(binary.LittleEndian.Uint64(b[4:])),
		took:    int64(binary.LittleEndian.Uint64(b[12:])),
		next:    binary.LittleEndian.Uint64(b[20:]),
	}, nil
}

func (r Relay) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, flag(r.Open)), uint64(r.Rank))
}

func parseRelay(b []byte) (r Relay, err error) {
	if len(b) != 9 {
		return r, errShortFrame
	}
	return Relay{Open: b[0] != 0, Rank: int64(binary.LittleEndian.Uint64(b[1:]))}, nil
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}
