package fs

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// forever is the time to live of what never changes.
const forever = 365 * 24 * time.Hour

// linkTime is the time to live of the name of a store object that is a link:
// the kernel follows it without asking for attributes, and would not notice
// that it was deleted.
const linkTime = time.Second

// raw answers the requests of the kernel: the rare ones as go-fuse's RawFileSystem,
// the frequent ones and those that may wait by methods of its own. What it does
// not define is answered ENOSYS: on a read-only mount the kernel sends no request
// that would change something.
type raw struct {
	fuse.RawFileSystem
	// relieve says that somebody else should read requests, as the answer to
	// this one may take long.
	relieve func()

	store        Store
	realiser     Realiser
	verifier     Verifier
	observer     Observer
	control      Control
	rules        rules
	tellDenied   func(Denial) // nil: nobody wants to know
	facts        Facts
	uses         *uses // nil if nobody wants to know
	waitInLookup bool
	log          *slog.Logger
	uid, gid     uint32
	// limit is how long one request may wait, 0 for any time.
	limit time.Duration
	// waited is how long, at most, those had waited whose requests another
	// server did not answer, when this one began.
	waited time.Duration

	nodes     *nodes
	backing   *backing
	data      data
	snapshots *snapshots
	changed   *changeTime
	notes     *notifier

	// ctx ends when the mount does; calls are the running calls of Realise.
	ctx   context.Context
	calls sync.WaitGroup
}

// status is what the kernel is told of err.
func status(err error) fuse.Status { return fuse.Status(Errno(err)) }

// lost is the answer when the backing of a node cannot be reached: if it is
// gone, ESTALE makes the kernel walk the path again.
func lost(err error) fuse.Status {
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return fuse.Status(syscall.ESTALE)
	}
	return fuse.ToStatus(err)
}

func (r *raw) String() string { return "storefs" }

func (r *raw) lookup(q *request, name string, out *fuse.EntryOut) fuse.Status {
	n := r.nodes.get(q.header().NodeId)
	switch {
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	case n.kind == kindRoot:
		return r.lookupRoot(q, name, out)
	case n.kind == kindControlDir:
		return r.lookupControl(n, name, out)
	case n.kind == kindProbe:
		if err := r.realise(q, n.name); err != nil {
			return status(err)
		}
		return fuse.Status(syscall.ESTALE) // the kernel looks the real one up
	}
	if st := r.settle(q, n); !st.Ok() {
		return st
	}
	return r.lookupInner(q, n, name, out)
}

func (r *raw) forget(id, count uint64) {
	freed, shrunk := r.nodes.forget(id, count)
	if freed {
		r.data.forget(id)
	}
	if shrunk {
		// A server that has nothing to do makes no garbage, and so would keep
		// this for minutes.
		r.relieve()
		debug.FreeOSMemory()
	}
}

var _ table = (*raw)(nil)

func (r *raw) below(tops []*node) []uint64 { return r.nodes.below(tops) }

func (r *raw) held(nodes []uint64) []uint64 {
	return r.nodes.within(slices.DeleteFunc(nodes, func(id uint64) bool { return !r.data.holds(id) }))
}

// drop closes what is gone, and what the kernel keeps. With handles, files that somebody has open stay so
// until that one closes them; without, nobody would tell of that.
func (r *raw) drop(nodes []uint64) {
	for _, id := range nodes {
		r.data.forget(id)
	}
}

func (r *raw) getAttr(q *request, out *fuse.AttrOut) fuse.Status {
	n := r.nodes.get(q.header().NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	switch n.kind {
	case kindRoot:
		r.rootAttr(&out.Attr)
	case kindControlDir, kindControlFile:
		r.controlAttr(&out.Attr, n)
	case kindProbe:
		out.Attr = r.dirAttr(topIno(n.name))
		return fuse.OK // and asked again
	case kindLink:
		st, status := r.resolve(q, n)
		if !status.Ok() {
			return status
		}
		r.attr(&out.Attr, n, &st)
	case kindObject:
		if st := r.settle(q, n); !st.Ok() {
			return st
		}
		st, err := r.backing.stat(n)
		if err == nil && (n.gone.Load() || n.object().gone.Load() && n.differs(&st)) {
			err = unix.ENOENT // what has its place is another node
		}
		if err != nil {
			if st, ok := r.data.stat(n); ok {
				r.attr(&out.Attr, n, &st)
				return fuse.OK // and asked again
			}
			return lost(err)
		}
		if st := r.verifyEmpty(q, n.parent, n.name, &st); !st.Ok() {
			return st
		}
		r.attr(&out.Attr, n, &st)
	}
	out.SetTimeout(forever)
	return fuse.OK
}

// readlink writes the target to buf and returns its length.
func (r *raw) readlink(q *request, buf []byte) (int, fuse.Status) {
	n := r.nodes.get(q.header().NodeId)
	if n == nil {
		return 0, fuse.Status(syscall.ESTALE)
	}
	if n.kind == kindLink {
		if _, st := r.resolve(q, n); !st.Ok() {
			return 0, st
		}
	}
	if st := r.verify(q, n); !st.Ok() {
		return 0, st
	}
	size, err := r.backing.readlink(n, buf)
	if err != nil {
		return 0, lost(err)
	}
	return size, fuse.OK
}

func (r *raw) open(q *request, out *fuse.OpenOut) fuse.Status {
	n := r.nodes.get(q.header().NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	// Without a request for each open, the first READ has to do. With one, there
	// may be no READ: by passthrough the kernel reads by itself.
	if r.data.handles != nil && n.kind == kindObject {
		if n.gone.Load() {
			// Deleted: who has it open reads on, and who opens it looks it up.
			return fuse.Status(syscall.ESTALE)
		}
		if st := r.verify(q, n); !st.Ok() {
			return st
		}
	}
	return r.data.open(n, out)
}

func (r *raw) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { r.data.release(in.NodeId) }

// OpenDir is refused once and for all: the kernel opens directories by itself
// from then on, and keeps their listings. It need not wait for a placeholder:
// opening a directory asks for its permissions first, and those for its
// attributes.
func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// readable is the file that q is about, whose contents may reach the kernel.
func (r *raw) readable(q *request) (*node, fuse.Status) {
	n := r.nodes.get(q.header().NodeId)
	switch {
	case n == nil:
		return nil, fuse.Status(syscall.ESTALE)
	case n.kind == kindControlFile:
		return n, fuse.OK
	}
	return n, r.verify(q, n)
}

// read reads from the readable file n to buf and returns how much there was.
func (r *raw) read(n *node, offset uint64, buf []byte) (int, fuse.Status) {
	if n.kind == kindControlFile {
		return copy(buf, n.content()[min(offset, uint64(len(n.content()))):]), fuse.OK
	}
	return r.data.read(n, offset, buf)
}

func (r *raw) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := r.nodes.get(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if n.kind == kindControlFile {
		// ENOSYS would end SEEK_HOLE for the whole mount.
		size := uint64(len(n.content()))
		switch {
		case in.Offset >= size:
			return fuse.Status(syscall.ENXIO)
		case in.Whence == unix.SEEK_HOLE:
			out.Offset = size
		default:
			out.Offset = in.Offset
		}
		return fuse.OK
	}
	var st fuse.Status
	out.Offset, st = r.data.seek(n, in.Offset, in.Whence)
	return st
}

// Flush is refused once and for all: there is nothing to write back.
func (r *raw) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (r *raw) readDir(q *request, in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	l := &listing{out: out, plus: plus, left: int(in.Size)}
	n := r.nodes.get(in.NodeId)
	switch {
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	case n.kind == kindRoot:
		return r.listRoot(l, in.Offset)
	case n.kind == kindControlDir:
		return r.listControl(l, n, in.Offset)
	case n.kind == kindProbe:
		l.dots(in.Offset, topIno(n.name), fuse.FUSE_ROOT_ID)
		return fuse.OK
	}
	if st := r.settle(q, n); !st.Ok() {
		return st
	}
	return r.listInner(q, l, n, in.Offset)
}

// StatFs is that of the file system that holds the objects.
func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(r.backing.real, &st); err != nil {
		return fuse.ToStatus(err)
	}
	out.FromStatfsT(&st)
	return fuse.OK
}
