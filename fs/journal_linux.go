package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// journal is the table of nodes as the next server will need it, in memory that
// outlives this process: a memfd, which somebody else keeps open too. It is
// written by plain stores, which a kill cannot undo, and before the kernel is
// told of what they say: so it is never behind what the kernel knows. It may be
// ahead of it, by the answers that were not sent any more.
//
// The memory begins with a header and goes on with slots. A node takes one, and
// more if its name is long. Slots come in steps, which are allocated when they
// are needed and given back when nothing in them is used.
//
// A nil journal keeps nothing.
type journal struct {
	file  *os.File
	mem   []byte
	steps []step
	first int // no step before it has a free slot
	lost  error

	waitMu sync.Mutex
	waits  int // for which since is kept; guarded by waitMu
}

const (
	journalMagic = 0x315f6c6e72756f6a // "journl_1"; the digit is the layout's version
	journalSpace = 8 << 30            // of addresses; memory is what is used
	headerSize   = 4096
	slotSize     = 64
	stepSlots    = 1 << 14 // 1 MiB
	stepSize     = stepSlots * slotSize
	maxSlots     = (journalSpace - headerSize) / stepSize * stepSlots
)

// header is the begin of the memory. What is in it but last and lost is written
// once.
type header struct {
	magic        uint64
	last         uint64 // the greatest node id that was given out
	lost         uint32 // not 0: some node could not be kept
	major, minor uint32 // the mount's device
	direct       uint32
	since        int64     // when the oldest wait began, 0 if there is none
	init         [256]byte // length (2 bytes), INIT request
	reply        [256]byte // length, and the answer to it
	dir          [2048]byte
}

// slot is one node, or more of one's name. It counts if its id is not 0; the id
// is written last, and taken away first.
type slot struct {
	id      uint64
	parent  uint64
	lookups uint64
	more    uint32 // slot of the rest of the name; in a free slot, of the next one
	length  uint8
	kind    nodeKind
	flags   uint8
	_       uint8
	backing int32 // the kernel's id of the file that it reads itself, or 0
	name    [28]byte
}

// rest is a slot with more of a name.
type rest struct {
	id   uint64 // restID
	more uint32
	name [52]byte
}

// restID is no node's.
const restID = ^uint64(0)

// Flags of slots.
const (
	flagPending = 1 << iota
	flagFile    // what is pending was promised to be a file, not a directory
	flagGone    // a later lookup finds another node
	// flagDoubtful: it is being replaced; the next server takes it for one that is gone.
	flagDoubtful
)

// newJournal makes an empty one for the mount m of d.
func newJournal(m mounted, d *device, direct bool) (*journal, error) {
	fd, err := unix.MemfdCreate("storefs-nodes", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	j := &journal{file: os.NewFile(uintptr(fd), "storefs-nodes")}
	if err := j.make(m, d, direct); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// allocate makes sure that there is memory for size bytes at offset: a store to where
// there is none would be a SIGBUS. Any signal interrupts that, those of Go's runtime too.
func (j *journal) allocate(offset, size int64) error {
	for piece := size; size > 0; {
		piece = min(piece, size)
		switch err := unix.Fallocate(int(j.file.Fd()), 0, offset, piece); {
		case errors.Is(err, unix.EINTR): // and undone: less may be done before the next one
			piece = max(piece/2, slotSize)
		case err != nil:
			return fmt.Errorf("allocate memory: %w", err)
		default:
			offset, size = offset+piece, size-piece
		}
	}
	return nil
}

func (j *journal) make(m mounted, d *device, direct bool) error {
	if err := j.allocate(0, headerSize); err != nil {
		return err
	}
	if err := j.mmap(); err != nil {
		return err
	}
	h := j.header()
	h.major, h.minor = uint32(m.major), uint32(m.minor)
	if direct {
		h.direct = 1
	}
	for _, f := range []struct{ to, from []byte }{{h.init[:], d.init}, {h.reply[:], d.reply}, {h.dir[:], []byte(m.dir)}} {
		if len(f.from) > len(f.to)-2 {
			return errors.New("it does not fit")
		}
		binary.NativeEndian.PutUint16(f.to, uint16(len(f.from)))
		copy(f.to[2:], f.from)
	}
	atomic.StoreUint64(&h.magic, journalMagic)
	return nil
}

// errDamaged: no server wrote this.
var errDamaged = errors.New("it is damaged")

// openJournal reads the one that another process has left, and calls each for
// every node in it, in no order.
func openJournal(file *os.File, each func(slot uint32, s *slot, name string)) (*journal, error) {
	j := &journal{file: file}
	if err := j.open(each); err != nil {
		return nil, errors.Join(err, j.unmap())
	}
	return j, nil
}

func (j *journal) open(each func(slot uint32, s *slot, name string)) error {
	st, err := j.file.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	if size < headerSize || size > headerSize+maxSlots*slotSize {
		return errDamaged
	}
	if err := j.mmap(); err != nil {
		return err
	}
	if err := j.header().check(); err != nil {
		return err
	}
	return j.scan(int((size-headerSize)/stepSize), each)
}

// scan finds out what is used. Parts of names that belong to no node, because
// the kill came before the node, are free.
func (j *journal) scan(steps int, each func(slot uint32, s *slot, name string)) error {
	if steps == 0 {
		return nil
	}
	j.steps = make([]step, steps)
	used := make([]uint64, steps*stepSlots/64)
	mark := func(i uint32) { used[i/64] |= 1 << (i % 64) }
	total := uint32(steps * stepSlots)
	mark(0) // never used: it stands for none
	for i := uint32(1); i < total; i++ {
		s := j.slot(i)
		if s.id == 0 || s.id == restID {
			continue
		}
		name := append([]byte(nil), s.name[:min(int(s.length), len(s.name))]...)
		mark(i)
		for more := s.more; more != 0; {
			if more >= total || len(name) >= int(s.length) || used[more/64]&(1<<(more%64)) != 0 {
				return errDamaged
			}
			r := j.rest(more)
			if r.id != restID {
				return errDamaged
			}
			mark(more)
			name = append(name, r.name[:min(int(s.length)-len(name), len(r.name))]...)
			more = r.more
		}
		if len(name) != int(s.length) || len(name) == 0 {
			return errDamaged
		}
		each(i, s, string(name))
	}
	for k := range j.steps {
		st := &j.steps[k]
		st.next = uint32(k * stepSlots)
		for i := st.next; i < uint32((k+1)*stepSlots); i++ {
			if used[i/64]&(1<<(i%64)) == 0 {
				continue
			}
			for ; st.next < i; st.next++ {
				j.push(st, st.next)
			}
			st.next++
			st.used++
		}
	}
	return nil
}

func (j *journal) mmap() (err error) {
	j.mem, err = unix.Mmap(int(j.file.Fd()), 0, journalSpace, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	// A core dump needs the heap, and not a second copy of what is in it.
	_ = unix.Madvise(j.mem, unix.MADV_DONTDUMP)
	return nil
}

func (j *journal) unmap() error {
	if j.mem == nil {
		return nil
	}
	err := unix.Munmap(j.mem)
	j.mem = nil
	return err
}

// close gives the memory up. It lives on if another process has it.
func (j *journal) close() {
	if j != nil {
		_ = j.unmap()
		j.file.Close()
	}
}

func (j *journal) header() *header { return (*header)(unsafe.Pointer(&j.mem[0])) }

func (j *journal) slot(i uint32) *slot {
	return (*slot)(unsafe.Pointer(&j.mem[headerSize+int(i)*slotSize]))
}

func (j *journal) rest(i uint32) *rest { return (*rest)(unsafe.Pointer(j.slot(i))) }

func (h *header) check() error {
	switch {
	case h.magic != journalMagic:
		return errors.New("it is another version's, or damaged")
	case h.lost != 0:
		return errors.New("it is not complete, for lack of memory")
	}
	return nil
}

// text is what a field of the header holds.
func text(f []byte) []byte {
	return f[2 : 2+min(int(binary.NativeEndian.Uint16(f)), len(f)-2)]
}

// waiting keeps when the oldest of the present waits began; or, while there is
// never none, when an older one did.
func (j *journal) waiting(more int) {
	if j == nil {
		return
	}
	j.waitMu.Lock()
	defer j.waitMu.Unlock()
	j.waits += more
	switch h := j.header(); {
	case j.waits == 0:
		h.since = 0
	case h.since == 0:
		h.since = clock()
	}
}

// waited is how long ago since is.
func (j *journal) waited() time.Duration {
	if j == nil || j.header().since == 0 {
		return 0
	}
	return time.Duration(clock() - j.header().since)
}

// clock is the time since the machine was started, the same for all processes.
func clock() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
}

// add keeps a new node, to which no lookup was answered yet. Without memory for
// it the journal is lost for good: a server that knew some nodes only would
// fail the callers that use the others.
func (j *journal) add(n *node) {
	if j == nil || j.lost != nil {
		return
	}
	h := j.header()
	h.last = n.id
	i := j.alloc()
	if i == 0 {
		atomic.StoreUint32(&h.lost, 1)
		return
	}
	s := j.slot(i)
	s.parent, s.lookups, s.length, s.kind, s.flags, s.more, s.backing = n.parent.id, 0, uint8(len(n.name)), n.kind, 0, 0, 0
	to := &s.more
	for left := n.name[copy(s.name[:], n.name):]; len(left) > 0; {
		k := j.alloc()
		if k == 0 {
			atomic.StoreUint32(&h.lost, 1)
			return
		}
		r := j.rest(k)
		r.more = 0
		left = left[copy(r.name[:], left):]
		atomic.StoreUint64(&r.id, restID)
		*to, to = k, &r.more
	}
	atomic.StoreUint64(&s.id, n.id)
	n.slot = i
}

// count keeps the number of lookups.
func (j *journal) count(n *node) {
	if j != nil && n.slot != 0 {
		atomic.StoreUint64(&j.slot(n.slot).lookups, n.lookups)
	}
}

// flag sets or clears a flag.
func (j *journal) flag(n *node, flag uint8, on bool) {
	if j == nil || n.slot == 0 {
		return
	}
	s := j.slot(n.slot)
	if on {
		s.flags |= flag
	} else {
		s.flags &^= flag
	}
}

// remove forgets a node.
func (j *journal) remove(n *node) {
	if j == nil || n.slot == 0 {
		return
	}
	s := j.slot(n.slot)
	more := s.more
	atomic.StoreUint64(&s.id, 0)
	j.release(n.slot)
	for more != 0 {
		r := j.rest(more)
		next := r.more
		atomic.StoreUint64(&r.id, 0)
		j.release(more)
		more = next
	}
	n.slot = 0
}
