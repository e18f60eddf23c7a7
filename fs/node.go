package fs

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
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
	// gone is true for a store object that was deleted or replaced: what is there
	// by its name, if anything is, is not what the kernel knows this node as.
	gone atomic.Bool
	// same is true for one that is gone, in whose place is another with the same
	// contents: who has some of it open goes on in that one.
	same atomic.Bool
	// verified is true for a file or link that was compared with what was
	// registered, and need not be again.
	verified atomic.Bool
	// size is what the kernel was told, plus 1: it reads so far. 0 if a server before
	// this one told it.
	size atomic.Int64
	// lookups is how often the kernel was told of the node, minus what it
	// forgot. Guarded by nodes.mu.
	lookups uint64
	// children is how many nodes have this one as their parent: it is kept in
	// the journal for their sake, too. Guarded by nodes.mu.
	children int32
	slot     uint32  // in the journal, 0 if it is not there; guarded by nodes.mu
	dropped  bool    // neither the kernel nor a child needs it; guarded by nodes.mu
	text     *string // kindControlFile
}

// content is the text of a control file.
func (n *node) content() string {
	if n.text == nil {
		return ""
	}
	return *n.text
}

// top reports whether n is a store object itself.
func (n *node) top() bool { return n.parent != nil && n.parent.kind == kindRoot }

// stale reports whether the store object that n is, or is in, is gone, and what has
// its place, if anything, is not the same.
func (n *node) stale() bool {
	top := n.object()
	return top.gone.Load() && !top.same.Load()
}

// differs reports whether the file that st describes, which has n's path, is another than
// the kernel knows as n: its size is not what it was told, and it reads so far. Then the
// old one was damaged, and may be open still.
func (n *node) differs(st *unix.Stat_t) bool {
	size := n.size.Load()
	return st.Mode&unix.S_IFMT == unix.S_IFREG && size != st.Size+1 && (size != 0 || n.object().gone.Load())
}

// object is the node of the store object that n is, or is in: the root for others.
func (n *node) object() *node {
	for n.parent != nil && n.parent.kind != kindRoot {
		n = n.parent
	}
	return n
}

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
	// replaced are the nodes that are gone and the same, by their names.
	replaced map[string][]*node
	// doubtful are the names of store objects that are being replaced.
	doubtful map[string]bool
	// most is the greatest length of byID since the maps were made.
	most    int
	journal *journal // nil if nothing is kept for a later server
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
		replaced: make(map[string][]*node),
		doubtful: make(map[string]bool),
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
	t.count(n)
	return n
}

// inner is child for what st describes in the real directory parent. A node that is known as
// another file loses its name.
func (t *nodes) inner(parent *node, name string, st *unix.Stat_t) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := childKey{parent.id, name}
	n := t.children[key]
	if n == nil || n.differs(st) {
		n = t.add(parent, name, kindObject)
		n.size.Store(st.Size + 1)
		t.children[key] = n
	}
	t.count(n)
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
		t.free(n)
		n = t.add(t.root, name, kindObject)
		t.journal.flag(n, flagDoubtful, t.doubtful[name])
		t.children[key] = n
	case n.pending.Load():
		t.keepPending(n, false)
	}
	t.count(n)
	return n
}

// promise is child for a store object that is not valid, but will be of the type
// format: S_IFDIR or S_IFREG. If there is a node of one that was valid, it returns
// that one instead, and counts nothing.
func (t *nodes) promise(name string, format uint32) (n, valid *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := childKey{t.root.id, name}
	n = t.children[key]
	if n != nil && !n.pending.Load() {
		return nil, n
	}
	if n == nil || n.promised != format {
		t.free(n)
		n = t.add(t.root, name, kindObject)
		n.promised = format
		t.keepPending(n, true)
		t.children[key] = n
	}
	t.count(n)
	return n, nil
}

// single makes a node that no later lookup will find, and counts one lookup.
func (t *nodes) single(parent *node, name string, kind nodeKind, text string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.add(parent, name, kind)
	n.text = &text
	t.count(n)
	return n
}

func (t *nodes) add(parent *node, name string, kind nodeKind) *node {
	t.last++
	n := &node{id: t.last, parent: parent, name: name, kind: kind}
	t.byID[n.id] = n
	t.most = max(t.most, len(t.byID))
	parent.children++
	t.journal.add(n)
	return n
}

// count counts one lookup.
func (t *nodes) count(n *node) {
	n.lookups++
	t.journal.count(n)
}

func (t *nodes) keepPending(n *node, pending bool) {
	n.pending.Store(pending)
	t.journal.flag(n, flagFile, n.promised == unix.S_IFREG)
	t.journal.flag(n, flagPending, pending)
}

// settled says that what n was promised to be is there. It reports whether n is
// that: it may have been deleted meanwhile.
func (t *nodes) settled(n *node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keepPending(n, false)
	return !n.gone.Load()
}

// unname makes the next lookup of the store object called name find a new
// node. It returns those that the kernel may know by now, which are gone: the one that a
// lookup would have found, and those before it that were replaced by their like. What all
// of them were is the same as what has the name now, or not.
func (t *nodes) unname(name string, same bool) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.children[childKey{t.root.id, name}]
	gone := t.replaced[name]
	if n != nil {
		gone = append(gone, n)
	}
	for _, m := range gone {
		m.same.Store(same) // first: none is stale in between
	}
	t.free(n)
	if same && len(gone) > 0 {
		t.replaced[name] = gone
		return slices.Clone(gone)
	}
	delete(t.replaced, name)
	return gone
}

// doubt keeps for a later server that the store object called name may be replaced at
// any moment, or, with on false, that it was not.
func (t *nodes) doubt(name string, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if on {
		t.doubtful[name] = true
	} else {
		delete(t.doubtful, name)
	}
	if n := t.children[childKey{t.root.id, name}]; n != nil {
		t.journal.flag(n, flagDoubtful, on)
	}
}

// replace is unname of n, if a lookup of its name would find n.
func (t *nodes) replace(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.children[childKey{t.root.id, n.name}] == n {
		t.free(n)
	}
}

// free takes the name from n, the node of a store object, if that is not nil. t.mu
// is held.
func (t *nodes) free(n *node) {
	if n == nil {
		return
	}
	n.gone.Store(true)
	t.journal.flag(n, flagGone, true)
	delete(t.children, childKey{t.root.id, n.name})
}

// below are the ids of tops and of all that the kernel knows below them, the
// lowest first.
func (t *nodes) below(tops []*node) []uint64 {
	if len(tops) == 0 {
		return nil
	}
	wanted := make(map[*node]bool, len(tops))
	for _, n := range tops {
		wanted[n] = true
	}
	var ids []uint64
	t.mu.RLock()
	for id, n := range t.byID {
		for n.parent != nil && n.parent != t.root {
			n = n.parent
		}
		if wanted[n] {
			ids = append(ids, id)
		}
	}
	t.mu.RUnlock()
	// What is below another has the greater id.
	slices.SortFunc(ids, func(a, b uint64) int { return cmp.Compare(b, a) })
	return ids
}

// within are the ids of nodes and of all that they are in, but the root, those below first.
func (t *nodes) within(ids []uint64) []uint64 {
	found := make(map[uint64]bool, len(ids))
	t.mu.RLock()
	for _, id := range ids {
		for n := t.byID[id]; n != nil && n != t.root; n = n.parent {
			found[n.id] = true
		}
	}
	t.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(found), func(a, b uint64) int { return cmp.Compare(b, a) })
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
	m.lookups -= min(m.lookups, n)
	t.journal.count(m)
	if m.lookups > 0 {
		return false, false
	}
	delete(t.byID, id)
	key := childKey{m.parent.id, m.name}
	if t.children[key] == m {
		delete(t.children, key)
	}
	t.drop(m)
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

// drop takes n, which the kernel does not know, out of the journal, unless
// others are below it; and so what it was the last one below.
func (t *nodes) drop(n *node) {
	for n != t.root && n.lookups == 0 && n.children == 0 && !n.dropped {
		n.dropped = true
		t.journal.remove(n)
		if n.same.Load() {
			if left := slices.DeleteFunc(t.replaced[n.name], func(m *node) bool { return m == n }); len(left) > 0 {
				t.replaced[n.name] = left
			} else {
				delete(t.replaced, n.name)
			}
		}
		n = n.parent
		n.children--
	}
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
