package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// kernel is what can be told to the kernel without being asked. None of it may
// wait for a lock that the kernel holds during a request: a server that is
// killed in such a wait never dies, as the request is the next server's to
// answer, and that one waits for its end. So names are not made invalid by
// FUSE_NOTIFY_INVAL_ENTRY, which takes the lock of the directory.
type kernel interface {
	// InodeNotify makes it ask for the attributes of a node again, and drop the
	// contents from off on; none of them if off is negative.
	InodeNotify(node uint64, off, length int64) error
	// Prune makes it drop the nodes that nobody uses, if it knows how to.
	Prune(nodes []uint64) error
}

// notifier tells the kernel of changes, from one goroutine of its own. Changes
// that come faster than the kernel takes them are told together.
type notifier struct {
	mu      sync.Mutex
	listing bool
	deleted []*node
	wake    chan struct{} // capacity 1
	// pending is closed when what waits has been told, telling when what is
	// being told has; nil if there is no such thing.
	pending, telling chan struct{}
}

func newNotifier() *notifier { return &notifier{wake: make(chan struct{}, 1)} }

// add never blocks.
func (n *notifier) add(deleted []*node) {
	n.mu.Lock()
	n.listing = true
	n.deleted = append(n.deleted, deleted...)
	if n.pending == nil {
		n.pending = make(chan struct{})
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// told returns a channel that is closed when everything that was added before
// has been told.
func (n *notifier) told() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.pending != nil:
		return n.pending
	case n.telling != nil:
		return n.telling
	}
	now := make(chan struct{})
	close(now)
	return now
}

// run tells k what was added, until stop is closed. The kernel asks for the
// attributes of what was deleted before it uses it again, and gets ESTALE, upon
// which it looks the name up. Then all that is below, which below finds, is
// dropped.
func (n *notifier) run(k kernel, below func([]*node) []uint64, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-n.wake:
		}
		n.mu.Lock()
		listing, deleted := n.listing, n.deleted
		n.listing, n.deleted = false, nil
		n.telling, n.pending = n.pending, nil
		n.mu.Unlock()
		// The answers do not matter: ENOENT means that the kernel keeps no
		// such thing.
		for _, d := range deleted {
			_ = k.InodeNotify(d.id, -1, 0)
		}
		if listing {
			_ = k.InodeNotify(fuse.FUSE_ROOT_ID, 0, 0)
		}
		if len(deleted) > 0 {
			_ = k.Prune(below(deleted))
		}
		n.mu.Lock()
		if n.telling != nil {
			close(n.telling)
			n.telling = nil
		}
		n.mu.Unlock()
	}
}
