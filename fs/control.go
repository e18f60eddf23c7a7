package fs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"storefs/store"
)

// controlName is the hidden control directory. It is looked up, but never
// listed: no store object begins with a dot.
const (
	controlName    = ".storefs"
	controlStatus  = "status"
	controlWaiters = "waiters"
	controlWhy     = "why"
	controlLog     = "log"
	controlInfo    = "info"
)

// lookupControl finds name in the control directory n. A file's content is
// taken when it is looked up: with no-open, the kernel reads as much as the
// attributes said, and keeps it. So every lookup has a node of its own, which
// the kernel does not keep beyond the next one.
func (r *raw) lookupControl(n *node, name string, out *fuse.EntryOut) fuse.Status {
	switch {
	case n.name == controlName && (name == controlWhy || name == controlLog || name == controlInfo && r.facts != nil):
		r.controlEntry(out, r.nodes.child(n, name, kindControlDir))
		return fuse.OK
	case n.name == controlName && name != controlStatus && name != controlWaiters, n.name != controlName && store.CheckBase(name) != nil:
		return fuse.ENOENT
	}
	text, err := r.controlText(n.name, name)
	if err != nil {
		return status(err)
	}
	f := r.nodes.single(n, name, kindControlFile, string(text))
	out.NodeId = f.id
	out.SetAttrTimeout(forever)
	r.controlAttr(&out.Attr, f)
	return fuse.OK
}

// controlText is the content of the file called name in the directory called
// dir.
func (r *raw) controlText(dir, name string) ([]byte, error) {
	switch {
	case dir == controlName && name == controlStatus:
		return r.control.Status()
	case dir == controlName:
		return r.control.Waiters()
	case dir == controlWhy:
		return r.control.Why(name)
	case dir == controlInfo:
		return r.info(name)
	}
	return r.control.Log(name)
}

// restoreText takes the content of a file anew that was opened from another
// server: what the kernel has not read of it yet comes from the new one.
func (r *raw) restoreText(n *node) {
	if r.control == nil {
		return
	}
	text, err := r.controlText(n.parent.name, n.name)
	if err != nil {
		r.log.Debug("an open control file is empty now", "name", n.name, "error", err)
	}
	s := string(text)
	n.text = &s
}

func (r *raw) controlEntry(out *fuse.EntryOut, n *node) {
	out.NodeId = n.id
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	r.controlAttr(&out.Attr, n)
}

func (r *raw) controlAttr(a *fuse.Attr, n *node) {
	*a = r.dirAttr(controlIno(n))
	if n.kind == kindControlFile {
		now := time.Now()
		a.Mode = syscall.S_IFREG | 0o444
		a.Nlink = 1
		a.Size = uint64(len(n.content()))
		a.Blocks = (a.Size + 511) / 512
		a.SetTimes(&now, &now, &now)
	}
}

// controlIno follows from the path, which no store object can have.
func controlIno(n *node) uint64 {
	path := ""
	for m := n; m.parent != nil; m = m.parent {
		path = "/" + m.name + path
	}
	return topIno(path)
}

// listControl lists what always exists. Which names have a story to tell is
// not listed, as there may be one for every name.
func (r *raw) listControl(l *listing, n *node, offset uint64) fuse.Status {
	up := uint64(fuse.FUSE_ROOT_ID)
	if n.name != controlName {
		up = controlIno(n.parent)
	}
	if !l.dots(offset, controlIno(n), up) || n.name != controlName {
		return fuse.OK
	}
	entries := []fuse.DirEntry{
		{Name: controlLog, Mode: syscall.S_IFDIR},
		{Name: controlStatus, Mode: syscall.S_IFREG},
		{Name: controlWaiters, Mode: syscall.S_IFREG},
		{Name: controlWhy, Mode: syscall.S_IFDIR},
	}
	if r.facts != nil {
		entries = append([]fuse.DirEntry{{Name: controlInfo, Mode: syscall.S_IFDIR}}, entries...)
	}
	for i := max(offset, 2) - 2; i < uint64(len(entries)); i++ {
		e := entries[i]
		e.Off = 3 + i
		e.Ino = topIno("/" + controlName + "/" + e.Name)
		if !l.add(e) {
			break
		}
	}
	return fuse.OK
}
