package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// lookupInner finds name in the real directory n. Also that something is not
// there is kept forever: a valid object does not change.
func (r *raw) lookupInner(q *request, n *node, name string, out *fuse.EntryOut) fuse.Status {
	whole := r.verify(q, n)
	if !whole.Ok() && whole != fuse.EIO {
		return whole
	}
	st, there, err := r.backing.statIn(n, name)
	switch {
	case err != nil:
		return lost(err)
	case !there && !whole.Ok():
		return whole
	case !there:
		out.SetEntryTimeout(forever)
		return fuse.OK
	case !whole.Ok():
		if st := r.verifyFound(q, n, name, &st); !st.Ok() {
			return st
		}
	}
	if st := r.verifyEmpty(q, n, name, &st); !st.Ok() {
		return st
	}
	r.entry(out, r.nodes.inner(n, name, &st), &st)
	return fuse.OK
}

// entry describes the real node n, whose lookup is counted already.
func (r *raw) entry(out *fuse.EntryOut, n *node, st *unix.Stat_t) {
	out.NodeId = n.id
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	r.attr(&out.Attr, n, st)
}

// attr shows what is on disk, with the owner and the inode number that belong
// to the mount.
func (r *raw) attr(a *fuse.Attr, n *node, st *unix.Stat_t) {
	*a = fuse.Attr{
		Ino:     st.Ino,
		Size:    uint64(st.Size),
		Blocks:  uint64(st.Blocks),
		Mode:    st.Mode & (unix.S_IFMT | 0o555),
		Nlink:   uint32(st.Nlink),
		Owner:   fuse.Owner{Uid: r.uid, Gid: r.gid},
		Blksize: uint32(st.Blksize),
		// One time for all: access and change times on disk say when the
		// object was built and read here, and are no property of it.
		Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Atime: uint64(st.Mtim.Sec), Atimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Mtim.Sec), Ctimensec: uint32(st.Mtim.Nsec),
	}
	if n.top() {
		a.Ino = topIno(n.name)
	}
	n.size.Store(st.Size + 1)
}

// listInner lists the real directory n: "." at offset 1, ".." at 2, and the
// entry i of the snapshot at 3+i. Entries come with attributes and node ids, so
// that nobody who walks the tree needs a LOOKUP for each.
func (r *raw) listInner(q *request, l *listing, n *node, offset uint64) fuse.Status {
	if st := r.verify(q, n); !st.Ok() {
		return st
	}
	dir, err := r.backing.stat(n)
	if err != nil {
		return lost(err)
	}
	snapshot, err := r.snapshots.get(keyOf(&dir), func() ([]dirent, error) { return r.backing.list(n) })
	if err != nil {
		return lost(err)
	}
	own, up, err := r.inos(n, &dir)
	if err != nil {
		return lost(err)
	}
	if !l.dots(offset, own, up) {
		return fuse.OK
	}
	f, err := r.backing.acquire(n)
	if err != nil {
		return lost(err)
	}
	defer r.backing.release(f)
	for i := max(offset, 2) - 2; i < uint64(len(snapshot.entries)); i++ {
		d := snapshot.entries[i]
		e := fuse.DirEntry{Name: d.name, Mode: d.mode, Ino: d.ino, Off: 3 + i}
		if !l.plus {
			if !l.out.AddDirEntry(e) {
				break
			}
			continue
		}
		st, err := snapshot.stat(i, f.fd)
		if err != nil {
			return lost(err)
		}
		e.Mode = st.Mode
		out := l.out.AddDirLookupEntry(e)
		if out == nil {
			break
		}
		if !r.verifyEmpty(q, n, d.name, st).Ok() {
			continue // without attributes: who wants them gets the error
		}
		r.entry(out, r.nodes.inner(n, d.name, st), st)
	}
	return fuse.OK
}

// inos are the inode numbers of the directory n, which st describes, and of its
// parent, as attributes show them.
func (r *raw) inos(n *node, st *unix.Stat_t) (own, up uint64, err error) {
	if n.top() {
		return topIno(n.name), fuse.FUSE_ROOT_ID, nil
	}
	if n.parent.top() {
		return st.Ino, topIno(n.parent.name), nil
	}
	parent, err := r.backing.stat(n.parent)
	return st.Ino, parent.Ino, err
}

// lookupObject finds the valid store object e.
func (r *raw) lookupObject(q *request, e Entry, out *fuse.EntryOut) fuse.Status {
	name := e.Name
	st, err := statAt(r.backing.real, name)
	if st := r.verifyTop(q, e, &st, err); !st.Ok() {
		return st
	}
	if err != nil {
		r.log.Error("a valid object cannot be reached", "name", name, "error", err)
		return fuse.EIO
	}
	if st := r.verifyEmpty(q, r.nodes.root, name, &st); !st.Ok() {
		return st
	}
	r.entry(out, r.nodes.object(name, st.Mode&unix.S_IFMT), &st)
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		out.SetEntryTimeout(linkTime)
	case r.uses != nil:
		// Asked again after a while, to see that it is in use still.
		out.SetEntryTimeout(useTime)
	}
	if r.uses != nil {
		r.uses.add(callerOf(q), name)
	}
	return fuse.OK
}

// settle waits until n, if it is a promise, is the real object.
func (r *raw) settle(q *request, n *node) fuse.Status {
	if !n.pending.Load() {
		return fuse.OK
	}
	if err := r.realise(q, n.name); err != nil {
		return status(err)
	}
	st, err := r.backing.stat(n)
	if err != nil {
		return lost(err)
	}
	if st.Mode&unix.S_IFMT != n.promised {
		// The kernel does not let a node change its type: it has to look the
		// name up again.
		r.log.Debug("an object is not of the type that it was shown as", "name", n.name)
		r.nodes.replace(n)
		return fuse.Status(syscall.ESTALE)
	}
	if !r.nodes.settled(n) {
		return fuse.Status(syscall.ESTALE)
	}
	return fuse.OK
}

// resolve waits until the object that n, a placeholder in the shape of a link,
// stands for is valid. If that is a link itself, n may go on standing for it,
// and resolve describes it. Otherwise ESTALE makes the kernel walk the path
// again, and look the real object up.
func (r *raw) resolve(q *request, n *node) (unix.Stat_t, fuse.Status) {
	if err := r.realise(q, n.name); err != nil {
		return unix.Stat_t{}, status(err)
	}
	st, err := r.backing.stat(n)
	if err != nil {
		return st, lost(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return st, fuse.Status(syscall.ESTALE)
	}
	return st, fuse.OK
}
