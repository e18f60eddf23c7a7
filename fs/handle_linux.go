package fs

import (
	"container/list"
	"sync"

	"golang.org/x/sys/unix"
)

// maxIdle bounds the files that are kept open though nobody has them open, for
// the next one who does.
const maxIdle = 256

// handles are the open files. All opens of one node share one descriptor, and
// its node id is what the kernel knows it by.
//
// The kernel does not let one inode be read by passthrough and through its page
// cache at the same time, nor by passthrough from two backing ids: so a
// handle's backing id is decided when it is made, and a handle that is in use
// is never replaced.
type handles struct {
	backing *backing
	// register gives a descriptor to the kernel, to read from it without us;
	// nil if the kernel reads through its page cache.
	register   func(fd int) (int32, error)
	unregister func(id int32)
	// keep notes for a later server the id of the handle that a node has, 0 if it
	// has none. It is called with mu: of two ids, the one that is used is noted.
	keep func(node uint64, id int32)

	mu     sync.Mutex
	byNode map[uint64]*handle
	idle   *list.List // of *handle, least recently used last
}

type handle struct {
	node    uint64
	fd      int           // -1 if another server had it
	id      int32         // of the kernel's backing file, 0 if it has none
	users   int           // guarded by handles.mu
	gone    bool          // the kernel forgot the node; guarded by handles.mu
	element *list.Element // in handles.idle, while users is 0; guarded by handles.mu
}

func newHandles(b *backing) *handles {
	return &handles{backing: b, byNode: make(map[uint64]*handle), idle: list.New()}
}

// open counts one more open of the file n and returns its backing id.
func (t *handles) open(n *node) (int32, error) {
	t.mu.Lock()
	h := t.take(n.id)
	t.mu.Unlock()
	if h != nil {
		return h.id, nil
	}
	fresh, err := t.make(n)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	h = t.take(n.id)
	if h == nil {
		h, fresh = fresh, nil
		h.users = 1
		t.byNode[n.id] = h
		if h.id != 0 {
			t.keep(n.id, h.id)
		}
	}
	t.mu.Unlock()
	if fresh != nil {
		t.end(fresh)
	}
	return h.id, nil
}

// take is one more user of what is there, or nil. t.mu is held.
func (t *handles) take(node uint64) *handle {
	h := t.byNode[node]
	if h == nil {
		return nil
	}
	if h.element != nil {
		t.idle.Remove(h.element)
		h.element = nil
	}
	h.users++
	return h
}

func (t *handles) make(n *node) (*handle, error) {
	fd, err := t.backing.reach(n, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	h := &handle{node: n.id, fd: fd}
	if t.register != nil {
		if h.id, err = t.register(fd); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return h, nil
}

// use is one more user of an open file, which has to be released.
func (t *handles) use(node uint64) (fd int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.take(node)
	if h == nil {
		return 0, false
	}
	if h.fd < 0 {
		h.users--
		return 0, false
	}
	return h.fd, true
}

// share is use of a file only that somebody has open.
func (t *handles) share(node uint64) (fd int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byNode[node]
	if h == nil || h.users == 0 || h.fd < 0 {
		return 0, false
	}
	h.users++
	return h.fd, true
}

// release ends one use of an open file.
func (t *handles) release(node uint64) {
	t.mu.Lock()
	h := t.byNode[node]
	if h == nil || h.users == 0 || h.fd < 0 {
		t.mu.Unlock()
		return
	}
	var unused *handle
	if h.users--; h.users == 0 {
		h.element = t.idle.PushFront(h)
		switch {
		case h.gone:
			unused = t.remove(h)
		case t.idle.Len() > maxIdle:
			unused = t.remove(t.idle.Back().Value.(*handle))
		}
	}
	t.mu.Unlock()
	if unused != nil {
		t.end(unused)
	}
}

// restore takes the backing id over that another server gave the kernel for a
// node. How many have it open is not known: it is in use until the kernel
// forgets the node.
func (t *handles) restore(node uint64, id int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byNode[node] = &handle{node: node, fd: -1, id: id, users: 1}
}

// holds reports whether the node has a file open, here or in the kernel.
func (t *handles) holds(node uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byNode[node] != nil
}

// remove takes a handle out that nobody uses. t.mu is held.
func (t *handles) remove(h *handle) *handle {
	if h.element != nil {
		t.idle.Remove(h.element)
	}
	delete(t.byNode, h.node)
	if h.id != 0 {
		t.keep(h.node, 0)
	}
	return h
}

// forget closes the file of a node that no longer exists. The release of its
// last open may still be on its way.
func (t *handles) forget(node uint64) {
	t.mu.Lock()
	h := t.byNode[node]
	if h != nil {
		h.gone = true
		if h.users > 0 && h.fd >= 0 {
			h = nil
		} else {
			t.remove(h)
		}
	}
	t.mu.Unlock()
	if h != nil {
		t.end(h)
	}
}

func (t *handles) end(h *handle) {
	if h.id != 0 {
		t.unregister(h.id)
	}
	h.close()
}

func (h *handle) close() {
	if h.fd >= 0 {
		unix.Close(h.fd)
	}
}

// close closes everything; nobody uses it any more, and the kernel has dropped
// its backing files with the mount.
func (t *handles) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.byNode {
		h.close()
	}
	clear(t.byNode)
	t.idle.Init()
}
