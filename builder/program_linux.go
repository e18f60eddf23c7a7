package builder

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// program is a list of system calls that a new process makes one after the
// other: the set-up of a sandbox as data. All memory that it needs is prepared
// before, so that a child that shares its parent's memory can run it without
// Go's runtime.
type program struct {
	calls  []call
	what   []string // of each call, for its error
	result *result
	piece  []byte // the first piece of memory
	memory []byte // what is left of the last one
	pins   runtime.Pinner
}

// call is one system call of a program. Assembly knows its layout.
type call struct {
	number uintptr
	args   [6]uintptr
	to     uintptr // where the result goes; 0: nowhere
	least  int     // a result below this is a failure,
	also   int     // but for this one, which no call returns unless it was set
}

// result is the failure of a program in another process.
type result struct {
	at    uintptr // the address of the call that failed, 0 if none did
	value int     // what it returned
	pidfd int32   // of that process, in the one that made it
}

// cloneArgs are those of clone3, from linux/sched.h.
type cloneArgs struct {
	flags      uint64
	pidfd      uint64 // the address of an int
	_, _       uint64 // child_tid, parent_tid
	exitSignal uint64
	_, _, _    uint64 // stack, stack_size, tls
}

const pieceSize = 16 << 10

// newProgram makes a program that will have no more than n calls.
func newProgram(n int) *program {
	p := &program{calls: make([]call, 0, n), result: new(result)}
	p.pins.Pin(unsafe.SliceData(p.calls))
	p.pins.Pin(p.result)
	return p
}

// free lets the memory go. The program must have ended, or been replaced by an
// exec, in whichever process ran it.
func (p *program) free() { p.pins.Unpin() }

// clear makes p as it was when it was new, and reports whether it could: it cannot
// if one piece of memory was not enough. See free.
func (p *program) clear() bool {
	if len(p.piece) > 0 && (len(p.memory) == 0 || &p.memory[len(p.memory)-1] != &p.piece[len(p.piece)-1]) {
		return false
	}
	clear(p.piece[:len(p.piece)-len(p.memory)])
	p.memory = p.piece
	p.calls, p.what = p.calls[:0], p.what[:0]
	*p.result = result{}
	return true
}

// call adds a call. what says what it does, for its error.
func (p *program) call(what string, number uintptr, args ...uintptr) *call {
	if len(p.calls) == cap(p.calls) {
		panic("a sandbox needs more system calls than were counted")
	}
	c := call{number: number, also: math.MinInt}
	copy(c.args[:], args)
	p.calls = append(p.calls, c)
	p.what = append(p.what, what)
	return &p.calls[len(p.calls)-1]
}

// add adds all calls of a program that lives as long as p. None of them may pass
// its result on.
func (p *program) add(q *program) {
	for i, c := range q.calls {
		*p.call(q.what[i], c.number) = c
	}
}

// unless lets the call fail with errno.
func (c *call) unless(errno unix.Errno) { c.also = -int(errno) }

// pass hands the result of the call c, the last, to the one that comes n calls
// later, as argument arg.
func (p *program) pass(c *call, n, arg int) {
	// All calls are in one array, which does not move.
	c.to = uintptr(unsafe.Pointer(c)) + uintptr(n)*unsafe.Sizeof(*c) + unsafe.Offsetof(c.args) + uintptr(arg)*unsafe.Sizeof(c.args[0])
}

// atFDCWD is AT_FDCWD as an argument of a call.
const atFDCWD = ^uintptr(-unix.AT_FDCWD - 1)

// bytes is pinned memory, all zero and aligned to 8 bytes.
func (p *program) bytes(n int) []byte {
	n = (n + 7) &^ 7
	if n > len(p.memory) {
		p.memory = make([]byte, max(n, pieceSize))
		p.pins.Pin(unsafe.SliceData(p.memory))
		if p.piece == nil {
			p.piece = p.memory
		}
	}
	b := p.memory[:n:n]
	p.memory = p.memory[n:]
	return b
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// text is the address of s, ended by NUL.
func (p *program) text(s string) uintptr {
	b := p.bytes(len(s) + 1)
	copy(b, s)
	return address(b)
}

// texts is the address of a list of texts, as exec takes them.
func (p *program) texts(list []string) uintptr {
	const size = int(unsafe.Sizeof(uintptr(0)))
	array := p.bytes((len(list) + 1) * size)
	for i, s := range list {
		*(*uintptr)(unsafe.Pointer(&array[i*size])) = p.text(s)
	}
	return address(array)
}

// place copies v to where the program can use it.
func place[T any](p *program, v T) uintptr {
	b := p.bytes(int(unsafe.Sizeof(v)))
	*(*T)(unsafe.Pointer(unsafe.SliceData(b))) = v
	return address(b)
}

// run makes the calls in this thread. It does not pass results on.
func (p *program) run() error {
	for i := range p.calls {
		c := &p.calls[i]
		n, _, errno := unix.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		value := int(n)
		if errno != 0 {
			value = -int(errno)
		}
		if err := p.check(i, value); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) check(i, value int) error {
	c := &p.calls[i]
	switch {
	case value >= c.least || value == c.also:
		return nil
	case value < 0:
		return fmt.Errorf("%s: %w", p.what[i], namespaceErrno(c.number, unix.Errno(-value)))
	}
	return fmt.Errorf("%s: it returned %d", p.what[i], value)
}

// start runs the program in a new process, with the namespaces that flags name, and what
// else clone3 takes. It shares memory, and nothing that flags do not say. end is a
// descriptor of the process, which can be read when it has ended.
func (p *program) start(flags uint64) (pid, end int, err error) {
	args := &cloneArgs{
		flags:      flags | unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_PIDFD,
		pidfd:      uint64(uintptr(unsafe.Pointer(&p.result.pidfd))), // which is pinned
		exitSignal: uint64(unix.SIGCHLD),
	}
	n := cloneAndCall(args, unsafe.Sizeof(*args), unsafe.SliceData(p.calls), p.result)
	if n < 0 {
		return 0, -1, namespaceErrno(unix.SYS_CLONE3, unix.Errno(-n))
	}
	return n, int(p.result.pidfd), nil
}

// namespaceErrno tells a limit on namespaces from a full disk, for which the
// kernel has the same number. A mount that nobody sees yet is in one of its own.
func namespaceErrno(call uintptr, errno unix.Errno) unix.Errno {
	if errno == unix.ENOSPC && (call == unix.SYS_CLONE3 || call == unix.SYS_UNSHARE || call == unix.SYS_OPEN_TREE) {
		return unix.EUSERS
	}
	return errno
}

// failed is the index of the call that failed in the process that start made, and
// its error. That process must have ended.
func (p *program) failed() (int, error) {
	if p.result.at == 0 {
		return 0, nil
	}
	i := int(p.result.at-uintptr(unsafe.Pointer(unsafe.SliceData(p.calls)))) / int(unsafe.Sizeof(call{}))
	return i, p.check(i, p.result.value)
}
