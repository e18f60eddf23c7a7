package fs

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// request is one that is being answered; then the next that the same goroutine
// has read.
type request struct {
	text []byte // header and body
	// small holds most texts; it is aligned as the kernel's structures are.
	small [64]uint64
	// What the most frequent ones are answered with.
	entry struct {
		fuse.OutHeader
		fuse.EntryOut
	}
	attr struct {
		fuse.OutHeader
		fuse.AttrOut
	}
	open struct {
		fuse.OutHeader
		fuse.OpenOut
	}
	room *[]byte // that others are answered with; nil if there is none
	pipe *pipe   // that the answer is in; nil if it is in memory

	mu          sync.Mutex
	unique      uint64        // 0 between two requests; guarded by mu
	interrupted bool          // guarded by mu
	cancel      chan struct{} // nil if nobody waits for it; guarded by mu
}

// set makes q the request that the text is, which it keeps a copy of.
func (q *request) set(text []byte) {
	q.text = append(unsafe.Slice((*byte)(unsafe.Pointer(&q.small)), unsafe.Sizeof(q.small))[:0], text...)
	q.mu.Lock()
	q.unique = q.header().Unique
	q.mu.Unlock()
}

// done ends it.
func (q *request) done() {
	q.mu.Lock()
	q.unique, q.interrupted, q.cancel = 0, false, nil
	q.mu.Unlock()
}

func (q *request) header() *fuse.InHeader { return (*fuse.InHeader)(unsafe.Pointer(&q.text[0])) }

// in is a request whose body has a fixed beginning, or nil if that is not there.
func in[T any](q *request) *T {
	var t T
	if len(q.text) < int(unsafe.Sizeof(t)) {
		return nil
	}
	return (*T)(unsafe.Pointer(&q.text[0]))
}

// name is the only thing in the body, with a zero at its end.
func (q *request) name() string {
	b := q.text[requestHeader:]
	return string(b[:max(len(b)-1, 0)])
}

// cancelled returns a channel that is closed when the caller has got a signal.
func (q *request) cancelled() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cancel = make(chan struct{})
	if q.interrupted {
		close(q.cancel)
	}
	return q.cancel
}

// interrupt reports whether q is that request, which it tells that its caller has
// got a signal.
func (q *request) interrupt(unique uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unique != unique {
		return false
	}
	if !q.interrupted && q.cancel != nil {
		close(q.cancel)
	}
	q.interrupted = true
	return true
}

// fail is an answer without a body.
func (q *request) fail(st fuse.Status) []byte {
	q.entry.OutHeader = fuse.OutHeader{Length: outHeader, Status: -int32(st), Unique: q.header().Unique}
	return unsafe.Slice((*byte)(unsafe.Pointer(&q.entry)), outHeader)
}

// succeed completes an answer that begins with room for its header.
func (q *request) succeed(answer []byte) []byte {
	binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
	binary.NativeEndian.PutUint32(answer[4:], 0)
	binary.NativeEndian.PutUint64(answer[8:], q.header().Unique)
	return answer
}

// reply is the one or the other.
func (q *request) reply(st fuse.Status, answer []byte) []byte {
	if !st.Ok() {
		return q.fail(st)
	}
	return q.succeed(answer)
}

// inflight are the requests that are being answered.
type inflight struct {
	mu  sync.Mutex
	all map[*request]struct{}
}

func (f *inflight) add() *request {
	q := new(request)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[q] = struct{}{}
	return q
}

func (f *inflight) remove(q *request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, q)
}

// interrupt reports whether there is such a request, and tells it. It is slow,
// and rare.
func (f *inflight) interrupt(unique uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for q := range f.all {
		if q.interrupt(unique) {
			return true
		}
	}
	return false
}
