package fs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// restoreNodes makes the table that another server has left in its journal.
func restoreNodes(file *os.File) (*nodes, error) {
	t := newNodes()
	type link struct {
		n      *node
		parent uint64
	}
	var links []link
	damaged := false
	j, err := openJournal(file, func(i uint32, s *slot, name string) {
		// The root is in no journal, and nothing but the root has its kind.
		if t.byID[s.id] != nil || s.kind == kindRoot || s.kind > kindControlFile {
			damaged = true
			return
		}
		n := &node{id: s.id, name: name, kind: s.kind, lookups: s.lookups, slot: i}
		n.pending.Store(s.flags&flagPending != 0)
		n.promised = unix.S_IFDIR
		if s.flags&flagFile != 0 {
			n.promised = unix.S_IFREG
		}
		n.gone.Store(s.flags&(flagGone|flagDoubtful) != 0)
		t.byID[n.id] = n
		links = append(links, link{n, s.parent})
	})
	if err != nil {
		return nil, err
	}
	if damaged {
		return nil, errors.Join(errDamaged, j.unmap())
	}
	t.journal = j
	t.last = max(t.last, j.header().last)
	for _, l := range links {
		n := l.n
		// A parent has a smaller id than what is below it, and stays as long.
		if n.parent = t.byID[l.parent]; n.parent == nil || l.parent >= n.id {
			return nil, errors.Join(errDamaged, j.unmap())
		}
		n.parent.children++
		t.last = max(t.last, n.id)
		if n.kind != kindObject && n.kind != kindControlDir || n.lookups == 0 || n.gone.Load() {
			continue
		}
		key := childKey{l.parent, n.name}
		if other := t.children[key]; other == nil || other.id < n.id {
			t.children[key] = n
		}
	}
	for _, l := range links {
		if l.n.lookups == 0 {
			delete(t.byID, l.n.id)
			t.drop(l.n)
		}
	}
	t.most = len(t.byID)
	return t, nil
}

// named are the names of the store objects that the kernel knows as valid.
func (t *nodes) named() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var names []string
	for key, n := range t.children {
		if key.parent == t.root.id && n.kind == kindObject && !n.pending.Load() {
			names = append(names, key.name)
		}
	}
	return names
}

// gone are the store objects that the kernel knows, and that no lookup finds any
// more.
func (t *nodes) gone() []*node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var gone []*node
	for _, n := range t.byID {
		if n.gone.Load() {
			gone = append(gone, n)
		}
	}
	return gone
}

// backings are the ids of the files that the kernel reads by itself, by node.
func (t *nodes) backings() map[uint64]int32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ids := make(map[uint64]int32)
	for _, n := range t.byID {
		if n.slot == 0 {
			continue
		}
		if id := t.journal.slot(n.slot).backing; id != 0 {
			ids[n.id] = id
		}
	}
	return ids
}

// keepBacking notes the id of the file that the kernel reads for a node, 0 if
// there is none.
func (t *nodes) keepBacking(node uint64, id int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byID[node]; n != nil && n.slot != 0 {
		t.journal.slot(n.slot).backing = id
	}
}

// close ends the keeping.
func (t *nodes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.journal.close()
	t.journal = nil
}
