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
	id   uint64 // of the build
	body []byte
	fd   int // it comes along; -1: none
}

// Kinds of frames.
const (
	// To the spawner.
	frameConfig = 'c' // the first: a spawnerConfig as JSON
	frameBuild  = 'b' // a launch, with the descriptor of its log
	frameKill   = 'k'
	frameForget = 'f' // the scratch directory that the body names has gone

	// From it.
	frameRunning = 'r' // the process exists
	frameEnded   = 'e' // an ending
	frameFailed  = 'x' // a message; nothing of the sandbox is left
)

const (
	frameHeader = 16
	// maxFrame is a bound on what a length can be, in bytes: the kernel's on
	// arguments and environment, and as many names of inputs.
	maxFrame = 64 << 20
)

// send writes f. Only one may write at a time.
func (f frame) send(conn *net.UnixConn) error {
	b := make([]byte, frameHeader, frameHeader+len(f.body))
	binary.LittleEndian.PutUint32(b, uint32(len(f.body)))
	b[4] = f.kind
	binary.LittleEndian.PutUint64(b[8:], f.id)
	b = append(b, f.body...)
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

// receiveFrame reads a frame. Its descriptor belongs to the caller.
func receiveFrame(conn *net.UnixConn) (f frame, err error) {
	f.fd = -1
	defer func() {
		if err != nil && f.fd >= 0 {
			unix.Close(f.fd)
		}
	}()
	var header [frameHeader]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(header[:], oob)
	if err != nil {
		return f, err
	}
	if n == 0 {
		return f, io.EOF
	}
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return f, os.NewSyscallError("recvmsg", err)
		}
		for _, m := range messages {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return f, os.NewSyscallError("recvmsg", err)
			}
			for _, fd := range fds {
				f.fd = fd
			}
		}
	}
	if _, err := io.ReadFull(conn, header[n:]); err != nil {
		return f, err
	}
	size := binary.LittleEndian.Uint32(header[:])
	if size > maxFrame {
		return f, fmt.Errorf("a frame of %d bytes", size)
	}
	f.kind, f.id = header[4], binary.LittleEndian.Uint64(header[8:])
	f.body = make([]byte, size)
	_, err = io.ReadFull(conn, f.body)
	return f, err
}

// launch is a build as the spawner sees it.
type launch struct {
	scratch string // base name in the directory of scratch directories
	// stubs changes with what stands in the scratch's store directory to mount
	// inputs on.
	stubs       uint64
	inputs      []string // base names of those that are mounted
	personality uintptr
	builder     string
	args, env   []string
}

func (l *launch) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, l.stubs)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.personality))
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
			return make([]byte, min(n, 8))
		}
		taken := b[:n]
		b = b[n:]
		return taken
	}
	l := &launch{
		stubs:       binary.LittleEndian.Uint64(take(8)),
		personality: uintptr(binary.LittleEndian.Uint64(take(8))),
	}
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
	started, took int64 // nanoseconds: since 1970; from the exec on
}

func (e ending) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(e.status))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.started))
	return binary.LittleEndian.AppendUint64(b, uint64(e.took))
}

func parseEnding(b []byte) (e ending, err error) {
	if len(b) != 20 {
		return e, errShortFrame
	}
	return ending{
		status:  unix.WaitStatus(binary.LittleEndian.Uint32(b)),
		started: int64(binary.LittleEndian.Uint64(b[4:])),
		took:    int64(binary.LittleEndian.Uint64(b[12:])),
	}, nil
}
