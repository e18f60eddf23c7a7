package fs

import (
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// kernel is what can be told to the kernel without being asked.
type kernel interface {
	InodeNotify(node uint64, off, length int64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

// notifier tells the kernel of changes, from one goroutine of its own: a
// notification waits for locks that the kernel may hold during a request, so
// it must come neither from the goroutine that answers one, nor from any that
// holds a lock which an answer needs. Changes that come faster than the kernel
// takes them are told together.
type notifier struct {
	mu      sync.Mutex
	listing bool
	deleted []string
	wake    chan struct{} // capacity 1
	// pending is closed when what waits has been told, telling when what is
	// being told has; nil if there is no such thing.
	pending, telling chan struct{}
}

func newNotifier() *notifier { return &notifier{wake: make(chan struct{}, 1)} }

// add never blocks.
func (n *notifier) add(deleted []string) {
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

// postpone is how long deletions wait before it is looked again whether they
// can be told.
const postpone = 100 * time.Millisecond

// run tells k what was added, until stop is closed. Deletions need the lock of
// the root exclusively: while some caller waits in a LOOKUP, they would keep
// everybody out of the root for as long as it waits. So they are not told while
// blocked says so. Until then, who uses what the kernel still has of the
// deleted object gets ESTALE from here, upon which the kernel looks it up again.
func (n *notifier) run(k kernel, blocked func() bool, stop <-chan struct{}) {
	var again <-chan time.Time
	for {
		select {
		case <-stop:
			return
		case <-n.wake:
		case <-again:
		}
		again = nil
		n.mu.Lock()
		listing, deleted := n.listing, n.deleted
		n.listing, n.deleted = false, nil
		if len(deleted) > 0 && blocked() {
			n.deleted = deleted
			deleted = nil
			again = time.After(postpone)
		} else {
			n.telling, n.pending = n.pending, nil
		}
		n.mu.Unlock()
		// The answers do not matter: ENOENT means that the kernel keeps no
		// such thing.
		for _, name := range deleted {
			k.EntryNotify(fuse.FUSE_ROOT_ID, name)
		}
		if listing {
			k.InodeNotify(fuse.FUSE_ROOT_ID, 0, 0)
		}
		n.mu.Lock()
		if n.telling != nil {
			close(n.telling)
			n.telling = nil
		}
		n.mu.Unlock()
	}
}
