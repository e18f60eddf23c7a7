package fs

import (
	"bytes"
	"errors"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"storefs/store"
)

// Extended attributes. The kernel has no way to be told that a file has none,
// only that the whole mount has none, so each question costs a request. The
// programs that ask for all that they see (ls asks for access control lists and
// SELinux labels) ask one file system only once if it says that it knows no such
// attributes at all (EOPNOTSUPP, and not ENODATA), and programs that copy all
// attributes ask once a file then, and not twice: that is the answer for
// everything but the user's attributes of store objects.
const (
	userPrefix = "user."
	attrPrefix = userPrefix + "storefs."
)

// describes reports whether n has facts: a store object itself, valid or not.
func (n *node) describes() bool {
	return n.top() && (n.kind == kindObject || n.kind == kindLink || n.kind == kindProbe)
}

// GetXAttr answers getxattr(2). Attributes of placeholders come without waiting.
func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if r.facts == nil {
		return 0, fuse.ENOSYS
	}
	n := r.nodes.get(h.NodeId)
	if n == nil {
		return 0, fuse.Status(syscall.ESTALE)
	}
	if !strings.HasPrefix(attr, userPrefix) || !n.describes() {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	key, ours := strings.CutPrefix(attr, attrPrefix)
	if !ours {
		return 0, fuse.ENODATA
	}
	v, err := r.facts.Fact(n.name, key)
	if err != nil {
		if errors.Is(err, store.ErrUnknown) {
			return 0, fuse.ENODATA
		}
		return 0, status(err)
	}
	return fill(dest, v)
}

// ListXAttr answers listxattr(2).
func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if r.facts == nil {
		return 0, fuse.ENOSYS
	}
	n := r.nodes.get(h.NodeId)
	if n == nil {
		return 0, fuse.Status(syscall.ESTALE)
	}
	if !n.describes() {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	keys, err := r.facts.Keys(n.name)
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for _, k := range keys {
		list = append(append(append(list, attrPrefix...), k...), 0)
	}
	if len(dest) < len(list) {
		return uint32(len(list) + listRoom), fuse.ERANGE
	}
	return fill(dest, list)
}

// listRoom is how much more room a list is said to need than it does: there may be one
// name more before it is asked for, as of the first use, and overlayfs, which copies a
// file up, asks only once.
const listRoom = 64

// fill answers with v, or says how much room it needs.
func fill(dest, v []byte) (uint32, fuse.Status) {
	if len(dest) < len(v) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

// info is the text of info/NAME: a line for each fact.
func (r *raw) info(name string) ([]byte, error) {
	keys, err := r.facts.Keys(name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, k := range keys {
		v, err := r.facts.Fact(name, k)
		if errors.Is(err, store.ErrUnknown) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		b.WriteString(k + ": ")
		b.Write(v)
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// probe shows the unrealised name to somebody who only wants to know about it: as
// a directory that can be asked for its attributes, at once. Whoever goes into
// it waits like everybody else. The node is for this one lookup: all others see
// the placeholder that is for them.
func (r *raw) probe(name string, out *fuse.EntryOut) fuse.Status {
	n := r.nodes.single(r.nodes.root, name, kindProbe, "")
	out.NodeId = n.id
	out.Attr = r.dirAttr(topIno(name))
	return fuse.OK
}
