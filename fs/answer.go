package fs

import (
	"math/bits"
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Requests by their numbers.
const (
	codeLookup      = 1
	codeForget      = 2
	codeGetAttr     = 3
	codeReadlink    = 5
	codeOpen        = 14
	codeRead        = 15
	codeGetXAttr    = 22
	codeListXAttr   = 23
	codeReadDir     = 28
	codeInterrupt   = 36
	codeIoctl       = 39
	codeBatchForget = 42
	codeReadDirPlus = 44
)

// requestHeader is the size of struct fuse_in_header.
const requestHeader = int(unsafe.Sizeof(fuse.InHeader{}))

// longRead is from how many bytes on a READ takes so long that others should
// not wait for it, even if it need not wait for the disk.
const longRead = 64 << 10

// answerer answers requests: the frequent ones itself, straight from what was
// read into what will be written, the others by way of go-fuse.
type answerer struct {
	raw      *raw
	counts   *counted
	protocol *fuse.ProtocolServer
	inflight inflight
	rooms    rooms
	pipes    pipes
}

// newAnswerer keeps as many pipes for big answers as there are processors.
func newAnswerer(r *raw, counts *counted, o *fuse.MountOptions, processors int) *answerer {
	return &answerer{
		raw:      r,
		counts:   counts,
		protocol: fuse.NewProtocolServer(counts, o),
		inflight: inflight{all: make(map[*request]struct{})},
		pipes:    make(pipes, processors),
	}
}

// end takes back what q was answered with.
func (a *answerer) end(q *request) {
	a.rooms.put(q)
	if q.pipe != nil {
		a.pipes.put(q.pipe)
		q.pipe = nil
	}
	q.done()
}

// answer returns what to write, which is good until q ends. It is nil if the
// answer is in q's pipe, or if nobody waits for one.
func (a *answerer) answer(q *request) (answer []byte) {
	h := q.header()
	defer func() {
		if v := recover(); v != nil {
			a.raw.log.Error("panic in a request", "operation", h.Opcode, "panic", v)
			answer = q.fail(fuse.EIO)
		}
	}()
	switch h.Opcode {
	case codeLookup:
		a.counts.n[opLookup].Add(1)
		q.entry.EntryOut = fuse.EntryOut{}
		st := a.raw.lookup(q, q.name(), &q.entry.EntryOut)
		return q.reply(st, unsafe.Slice((*byte)(unsafe.Pointer(&q.entry)), unsafe.Sizeof(q.entry)))
	case codeGetAttr:
		a.counts.n[opGetAttr].Add(1)
		q.attr.AttrOut = fuse.AttrOut{}
		st := a.raw.getAttr(q, &q.attr.AttrOut)
		return q.reply(st, unsafe.Slice((*byte)(unsafe.Pointer(&q.attr)), unsafe.Sizeof(q.attr)))
	case codeReadlink:
		a.counts.n[opReadlink].Add(1)
		room := a.rooms.get(q, outHeader+unix.PathMax)
		n, st := a.raw.readlink(q, room[outHeader:])
		return q.reply(st, room[:outHeader+n])
	case codeOpen:
		a.counts.n[opOpen].Add(1)
		q.open.OpenOut = fuse.OpenOut{}
		st := a.raw.open(q, &q.open.OpenOut)
		return q.reply(st, unsafe.Slice((*byte)(unsafe.Pointer(&q.open)), unsafe.Sizeof(q.open)))
	case codeRead:
		if in := in[fuse.ReadIn](q); in != nil {
			return a.read(q, in)
		}
	case codeReadDir, codeReadDirPlus:
		if in := in[fuse.ReadIn](q); in != nil {
			return a.readDir(q, in)
		}
	case codeForget:
		if in := in[fuse.ForgetIn](q); in != nil {
			a.forget(in.NodeId, in.Nlookup)
		}
		return nil
	case codeBatchForget:
		a.forgetBatch(q)
		return nil
	case codeInterrupt:
		if in := in[fuse.InterruptIn](q); in != nil && !a.inflight.interrupt(in.Unique) {
			// It has not got here yet, or is over. The kernel knows, and comes
			// again in the first case.
			return q.fail(fuse.EAGAIN)
		}
		return nil
	default:
		return a.other(q)
	}
	return q.fail(fuse.EIO)
}

func (a *answerer) read(q *request, in *fuse.ReadIn) []byte {
	a.counts.n[opRead].Add(1)
	long := in.Size >= longRead
	if long {
		a.raw.relieve()
	}
	n, st := a.raw.readable(q)
	if !st.Ok() {
		return q.fail(st)
	}
	if long && a.readByPipe(q, n, in) {
		return nil
	}
	room := a.rooms.get(q, outHeader+int(in.Size))
	size, st := a.raw.read(n, in.Offset, room[outHeader:])
	return q.reply(st, room[:outHeader+size])
}

// readByPipe reports whether it has put the answer into a pipe of q's. So the
// contents are copied once, from page cache to page cache, and not twice by way
// of memory, which takes a quarter less of this process's time. What it cannot
// do, reading to memory can, or says why not.
func (a *answerer) readByPipe(q *request, n *node, in *fuse.ReadIn) bool {
	if n.kind != kindObject || in.Size > maxRead {
		return false
	}
	p := a.pipes.get()
	if p == nil {
		return false
	}
	if a.raw.data.fill(p, q.header().Unique, n, in.Offset, int(in.Size)) != nil {
		p.close()
		return false
	}
	q.pipe = p
	return true
}

func (a *answerer) readDir(q *request, in *fuse.ReadIn) []byte {
	plus := in.Opcode == codeReadDirPlus
	if plus {
		a.counts.n[opReadDirPlus].Add(1)
	} else {
		a.counts.n[opReadDir].Add(1)
	}
	room := a.rooms.get(q, outHeader+int(in.Size))
	list := fuse.NewDirEntryList(room[outHeader:], in.Offset)
	st := a.raw.readDir(q, in, list, plus)
	return q.reply(st, room[:outHeader+len(list.Bytes())])
}

func (a *answerer) forget(id, count uint64) {
	a.counts.n[opForget].Add(1)
	a.raw.forget(id, count)
}

// forgetBatch answers struct fuse_batch_forget_in: a count, padding, and pairs
// of a node and how many lookups of it are forgotten.
func (a *answerer) forgetBatch(q *request) {
	type batch struct {
		fuse.InHeader
		Count, _ uint32
	}
	in := in[batch](q)
	if in == nil {
		return
	}
	type one struct{ node, count uint64 }
	list := q.text[unsafe.Sizeof(*in):]
	count := min(int(in.Count), len(list)/int(unsafe.Sizeof(one{})))
	if count == 0 {
		return
	}
	for _, f := range unsafe.Slice((*one)(unsafe.Pointer(&list[0])), count) {
		a.forget(f.node, f.count)
	}
}

// other answers what is rare.
func (a *answerer) other(q *request) []byte {
	room := a.rooms.get(q, answerSize+wanted(q))
	n, st := a.protocol.HandleRequest([][]byte{q.text}, [][]byte{room})
	if !st.Ok() {
		return q.fail(st)
	}
	if n == 0 {
		return nil
	}
	return room[:n]
}

// answerSize is enough for all answers of go-fuse whose size does not follow
// from the request.
const answerSize = 8 << 10

// wanted is how many bytes a request asks for.
func wanted(q *request) int {
	switch q.header().Opcode {
	case codeGetXAttr, codeListXAttr:
		if in := in[fuse.GetXAttrIn](q); in != nil {
			return int(in.Size)
		}
	case codeIoctl:
		if in := in[fuse.IoctlIn](q); in != nil {
			return int(in.OutSize)
		}
	}
	return 0
}

// rooms are buffers for answers, by powers of two.
type rooms [bits.UintSize]sync.Pool

// get lends one of at least n bytes to q until q ends.
func (r *rooms) get(q *request, n int) []byte {
	class := bits.Len(uint(n - 1))
	b, _ := r[class].Get().(*[]byte)
	if b == nil {
		b = new(make([]byte, 1<<class))
	}
	q.room = b
	return (*b)[:n]
}

// put takes it back.
func (r *rooms) put(q *request) {
	if q.room != nil {
		r[bits.Len(uint(len(*q.room)-1))].Put(q.room)
		q.room = nil
	}
}
