package fs

import (
	"sync"
	"time"

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
	// Prune makes it drop the nodes that nobody uses, or fails if it does not know how to.
	Prune(nodes []uint64) error
}

// table is what is known of nodes here.
type table interface {
	// below are the ids of nodes and of all that is below them, those below first.
	below(tops []*node) []uint64
	// held are those of nodes that have a file open here, and what they are in, those below
	// first.
	held(nodes []uint64) []uint64
	// drop closes what is open of nodes.
	drop(nodes []uint64)
}

// Nobody says when a file that is gone is not used any more. So the kernel is made to drop it
// again, after this time, and then after twice the time before.
const (
	againFirst = time.Second
	againLast  = time.Minute
)

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
// which it looks the name up. Then all that is below is dropped, files as soon as nobody uses them:
// until then they are open here, and have their place on the disk. A kernel that does not know how
// to keeps everything until memory is short; what is open of it is closed then.
func (n *notifier) run(k kernel, t table, stop <-chan struct{}) {
	var left []uint64 // gone, and open when they were told of
	wait := againFirst
	again := time.NewTimer(wait)
	defer again.Stop()
	for {
		due := false
		select {
		case <-stop:
			return
		case <-n.wake:
		case <-again.C:
			due, wait = true, min(2*wait, againLast)
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
			due, wait = true, againFirst
		}
		if due {
			left = append(t.below(deleted), t.held(left)...)
		}
		switch {
		case !due || len(deleted)+len(left) == 0:
		case k.Prune(left) == nil:
			again.Reset(wait)
		default:
			t.drop(left)
			left = nil
		}
		n.mu.Lock()
		if n.telling != nil {
			close(n.telling)
			n.telling = nil
		}
		n.mu.Unlock()
	}
}
