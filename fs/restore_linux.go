package fs

import (
	"errors"
	"os"
)

// restoreNodes makes the table that another server has left in its journal.
func restoreNodes(file *os.File) (*nodes, error) {
	t := newNodes()
	type link struct {
		n       *node
		parent  uint64
		unnamed bool
	}
	var links []link
	j, err := openJournal(file, func(i uint32, s *slot, name string) {
		n := &node{id: s.id, name: name, kind: s.kind, lookups: s.lookups, slot: i}
		n.pending.Store(s.flags&flagPending != 0)
		t.byID[n.id] = n
		links = append(links, link{n, s.parent, s.flags&flagUnnamed != 0})
	})
	if err != nil {
		return nil, err
	}
	t.journal = j
	t.last = j.header().last
	for _, l := range links {
		n := l.n
		// A parent has a smaller id than what is below it, and stays as long.
		if n.parent = t.byID[l.parent]; n.parent == nil || l.parent >= n.id {
			return nil, errors.Join(errors.New("it is damaged"), j.unmap())
		}
		n.parent.children++
		t.last = max(t.last, n.id)
		if n.kind != kindObject && n.kind != kindControlDir || n.lookups == 0 || l.unnamed {
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

// close ends the keeping.
func (t *nodes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.journal.close()
	t.journal = nil
}
