package fs

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"storefs/store"
)

// The listing of the root has no state between two READDIRs: an entry's offset
// follows from its name. cookieLen characters of base 36 fit 63 bits.
const (
	cookieLen   = 12
	cookieFirst = 16
	listPage    = 128
)

const base36 = "0123456789abcdefghijklmnopqrstuvwxyz"

// cookie is the offset behind the entry called name. It grows with the name:
// the digits of base 36 are in byte order. Two digests that agree in 12
// characters have the same one.
func cookie(name string) uint64 {
	var v uint64
	for i := range cookieLen {
		v *= 36
		switch c := name[i]; {
		case c >= '0' && c <= '9':
			v += uint64(c - '0')
		case c >= 'a' && c <= 'z':
			v += uint64(c-'a') + 10
		}
	}
	return v + cookieFirst
}

// afterCookie is greater than all names with that cookie, and smaller than all
// with a greater one.
func afterCookie(c uint64) string {
	if c < cookieFirst {
		return ""
	}
	c -= cookieFirst
	var b [cookieLen + 1]byte
	b[cookieLen] = 0xff
	for i := cookieLen - 1; i >= 0; i-- {
		b[i] = base36[c%36]
		c /= 36
	}
	return string(b[:])
}

// changeTime is when the listing of the root last changed, as its mtime shows:
// the kernel keeps the listing until that differs.
type changeTime struct {
	mu sync.Mutex
	t  time.Time
}

func (c *changeTime) get() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// advance sets the time to now, and in any case to a later one than before.
func (c *changeTime) advance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !now.After(c.t) {
		now = c.t.Add(time.Nanosecond)
	}
	c.t = now
}

func (r *raw) rootAttr(a *fuse.Attr) {
	t := r.changed.get()
	*a = r.dirAttr(fuse.FUSE_ROOT_ID)
	a.SetTimes(&t, &t, &t)
}

// dirAttr describes a directory that is not on disk.
func (r *raw) dirAttr(ino uint64) fuse.Attr {
	return fuse.Attr{
		Ino:     ino,
		Mode:    syscall.S_IFDIR | 0o555,
		Nlink:   2,
		Owner:   fuse.Owner{Uid: r.uid, Gid: r.gid},
		Blksize: 4096,
		Mtime:   1, Atime: 1, Ctime: 1,
	}
}

// lookupRoot finds name in the store directory, without waiting unless the
// mount was told to. What is not there is not kept by the kernel, so that it
// need not be told when a name becomes known.
func (r *raw) lookupRoot(q *request, name string, out *fuse.EntryOut) fuse.Status {
	if name == controlName && r.control != nil {
		r.controlEntry(out, r.nodes.child(r.nodes.root, name, kindControlDir))
		return fuse.OK
	}
	if store.CheckBase(name) != nil {
		return fuse.ENOENT
	}
	e, err := r.store.Lookup(name)
	c, call := callerOf(q), ""
	if err == nil && !e.Valid {
		call = c.call(r.relieve)
		if r.facts != nil && c.asks(call) {
			return r.probe(name, out)
		}
	}
	if err == nil && !e.Valid && r.waitInLookup {
		if err = r.realise(q, name); err == nil {
			e, err = r.store.Lookup(name)
		}
		if err == nil && !e.Valid {
			err = store.ErrNotValid
		}
	}
	switch {
	case err != nil:
		if !errors.Is(err, store.ErrUnknown) {
			r.log.Debug("lookup failed", "name", name, "error", err)
		}
		return status(err)
	case e.Valid:
		if r.observer != nil {
			r.touched(callerOf(q), name)
		}
		return r.lookupObject(q, e, out)
	case e.Kind == store.KindDirectory:
		return r.promise(q, name, syscall.S_IFDIR|0o555, out)
	case e.Kind == store.KindRegular:
		return r.promise(q, name, syscall.S_IFREG|0o444, out)
	case e.Kind == store.KindExecutable:
		return r.promise(q, name, syscall.S_IFREG|0o555, out)
	case e.Kind == store.KindUnknown && c.refusesLinks(call):
		// This caller would fail at once with a link. A directory is most likely,
		// and good for all opens: what turns out to be none ends in ESTALE, and
		// the kernel looks again.
		return r.promise(q, name, syscall.S_IFDIR|0o555, out)
	default:
		// A node of its own for every lookup: the kernel locks the page that
		// a link is read into, and callers that wait for that cannot be
		// killed.
		n := r.nodes.single(r.nodes.root, name, kindLink, "")
		out.NodeId = n.id
		out.Attr = r.dirAttr(topIno(name))
		out.Attr.Mode = syscall.S_IFLNK | 0o777
		out.Attr.Nlink = 1
	}
	// Times to live stay 0: the kernel asks again at every step.
	return fuse.OK
}

// promise shows the unrealised name in the shape that it will have.
func (r *raw) promise(q *request, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	n, valid := r.nodes.promise(name, mode&syscall.S_IFMT)
	for n == nil {
		// Either the object became valid after this lookup was told that it is not,
		// or it was deleted, which this server has not heard of yet.
		e, err := r.store.Lookup(name)
		switch {
		case err != nil:
			return status(err)
		case e.Valid:
			return r.lookupObject(q, e, out)
		}
		r.nodes.replace(valid)
		n, valid = r.nodes.promise(name, mode&syscall.S_IFMT)
	}
	out.NodeId = n.id
	out.Attr = r.dirAttr(topIno(name))
	if n.promised != syscall.S_IFDIR {
		out.Attr.Mode = mode
		out.Attr.Nlink = 1
	}
	return fuse.OK
}

// listRoot lists the valid names, without node ids: listing the store must not
// make the kernel remember all that is in it.
func (r *raw) listRoot(l *listing, offset uint64) fuse.Status {
	if !l.dots(offset, fuse.FUSE_ROOT_ID, fuse.FUSE_ROOT_ID) {
		return fuse.OK
	}
	for after := afterCookie(offset); ; {
		page, err := r.store.List(after, listPage)
		if err != nil {
			return status(err)
		}
		if len(page) == 0 {
			return fuse.OK
		}
		// Names with the same cookie go together: whoever comes back with it
		// is behind all of them.
		for {
			last := page[len(page)-1]
			more, err := r.store.List(last.Name, 1)
			if err != nil {
				return status(err)
			}
			if len(more) == 0 || cookie(more[0].Name) != cookie(last.Name) {
				break
			}
			page = append(page, more...)
		}
		after = page[len(page)-1].Name
		for len(page) > 0 {
			c, ties := cookie(page[0].Name), 1
			for ties < len(page) && cookie(page[ties].Name) == c {
				ties++
			}
			if !l.group(page[:ties], c) {
				return fuse.OK
			}
			page = page[ties:]
		}
	}
}
