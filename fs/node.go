package fs

import (
	"hash/fnv"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// nodeKind says what a node stands for. It never changes.
type nodeKind uint8

const (
	// kindRoot: the store directory.
	kindRoot nodeKind = iota
	// kindObject: a store object or something inside of one. While
	// node.pending, a placeholder in the shape of what it was promised to be.
	kindObject
	// kindLink: a placeholder in the shape of a symbolic link.
	kindLink
	// kindProbe: a placeholder that only its attributes are asked of.
	kindProbe
	// kindControlDir: .storefs or a directory in it.
	kindControlDir
	// kindControlFile: a snapshot of one file below .storefs.
	kindControlFile
)

// node is one thing that the kernel knows by a node id. Its backing is reached
// by the names from it up to the root, so that it pins no descriptor.
type node struct {
	id     uint64
	parent *node // nil for the root; kept alive also after the kernel forgot it
	name   string
	kind   nodeKind
	// pending is true for an object that was promised to be of the type
	// promised, until it is valid.
	pending  atomic.Bool
	promised uint32 // S_IFDIR or S_IFREG; it never changes
	// verified is true for a file or link that was compared with what was
	// registered, and need not be again.
	verified atomic.Bool
	// lookups is how often the kernel was told of the node, minus what it
	// forgot. Guarded by nodes.mu.
	lookups uint64
	text    string // kindControlFile
}

// top reports whether n is a store object itself.
func (n *node) top() bool { return n.parent != nil && n.parent.kind == kindRoot }

// path is n's path from the directory of objects down, as components.
func (n *node) path() []string {
	depth := 0
	for m := n; m.parent != nil; m = m.parent {
		depth++
	}
	p := make([]string, depth)
	for m := n; m.parent != nil; m = m.parent {
		depth--
		p[depth] = m.name
	}
	return p
}

type childKey struct {
	parent uint64
	name   string
}

// nodes is the table of all nodes that the kernel knows. Node ids are never
// used again: a late request with an old id must not meet a new file, and
// backing inode numbers, which file systems do use again, would allow that.
type nodes struct {
	root *node

	mu       sync.RWMutex
	last     uint64
	byID     map[uint64]*node
	children map[childKey]*node
	// most is the greatest length of byID since the maps were made.
	most int
}

// Maps never give memory back: they are made anew when so little is left of
// what they held, if that was much.
const (
	shrinkTo   = 8       // most ÷ length
	shrinkFrom = 1 << 14 // most
)

func newNodes() *nodes {
	t := &nodes{
		root:     &node{id: fuse.FUSE_ROOT_ID, kind: kindRoot},
		last:     fuse.FUSE_ROOT_ID,
		byID:     make(map[uint64]*node),
		children: make(map[childKey]*node),
	}
	// The kernel never looks the root up and never forgets it.
	t.root.lookups = 1
	t.byID[t.root.id] = t.root
	return t
}

// get returns nil for an id that was forgotten, or never given out.
func (t *nodes) get(id uint64) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// child returns the node that name in parent leads to, a new one if there is
// none, and counts one lookup.
func (t *nodes) child(parent *node, name string, kind nodeKind) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := childKey{parent.id, name}
	n := t.children[key]
	if n == nil {
		n = t.add(parent, name, kind)
		t.children[key] = n
	}
	n.lookups++
	return n
}

// object is child for the valid store object called name, whose type (the
// S_IFMT part of a mode) is format. A node that was promised to be of that type
// becomes the real one; a promise that was broken is dropped, because the kernel
// does not let a node change its type.
func (t *nodes) object(name string, format uint32) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := childKey{t.root.id, name}
	n := t.children[key]
	switch {
	case n == nil || n.pending.Load() && n.promised != format:
		n = t.add(t.root, name, kindObject)
		t.children[key] = n
	case n.pending.Load():
		n.pending.Store(false)
	}
	n.lookups++
	return n
}

// promise is child for a store object that is not valid, but will be of the type
// format: S_IFDIR or S_IFREG.
func (t *nodes) promise(name string, format uint32) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := childKey{t.root.id, name}
	n := t.children[key]
	if n == nil || !n.pending.Load() || n.promised != format {
		n = t.add(t.root, name, kindObject)
		n.promised = format
		n.pending.Store(true)
		t.children[key] = n
	}
	n.lookups++
	return n
}

// single makes a node that no later lookup will find, and counts one lookup.
func (t *nodes) single(parent *node, name string, kind nodeKind, text string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.add(parent, name, kind)
	n.text = text
	n.lookups++
	return n
}

func (t *nodes) add(parent *node, name string, kind nodeKind) *node {
	t.last++
	n := &node{id: t.last, parent: parent, name: name, kind: kind}
	t.byID[n.id] = n
	t.most = max(t.most, len(t.byID))
	return n
}

// unname makes the next lookup of the store object called name find a new
// node.
func (t *nodes) unname(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.children, childKey{t.root.id, name})
}

// forget takes back n lookups and reports whether that freed the node, and
// whether there is now much memory to give back.
func (t *nodes) forget(id, n uint64) (freed, shrunk bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.byID[id]
	if m == nil || m == t.root {
		return false, false
	}
	if m.lookups > n {
		m.lookups -= n
		return false, false
	}
	delete(t.byID, id)
	key := childKey{m.parent.id, m.name}
	if t.children[key] == m {
		delete(t.children, key)
	}
	if t.most < shrinkFrom || len(t.byID) > t.most/shrinkTo {
		return true, false
	}
	t.byID, t.children, t.most = remade(t.byID), remade(t.children), len(t.byID)
	return true, true
}

// remade is a copy of m that is no larger than it must be; maps.Clone would
// make one of the same capacity.
func remade[K comparable](m map[K]*node) map[K]*node {
	c := make(map[K]*node, len(m))
	maps.Copy(c, m)
	return c
}

// size is the number of nodes, the root among them.
func (t *nodes) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// topIno is the inode number of a name directly below the root (or, for the
// control directory, of a path). It follows from the name alone, so that a
// placeholder and the real object, today's mount and tomorrow's agree. Bit 62
// keeps it away from the inode numbers of the backing file system, which inner
// nodes show.
func topIno(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()&(1<<62-1) | 1<<62
}
