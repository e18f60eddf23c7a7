package builder

import (
	"fmt"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// directInputs is the most inputs that are mounted one by one. More of them
	// are put together once, and cloned: one of a clone costs a fifth of a bind
	// mount.
	directInputs = 16
	// maxTreeMounts is the most mounts that trees have together. The kernel
	// allows 100,000 in a namespace.
	maxTreeMounts = 30_000
)

// inputTrees are the store directories of scratch directories with all inputs
// mounted in them, in this process's mount namespace, for as long as the scratch
// directory keeps the same stubs.
type inputTrees struct {
	mu     sync.Mutex
	trees  map[uint64]*inputTree // by number of the scratch directory
	mounts int                   // of all of them
	turn   uint64                // counts uses
}

type inputTree struct {
	stubs  uint64
	root   int // descriptor of its root mount
	mounts int
	used   uint64 // the turn of its last use
	busy   bool   // it is being made or cloned
}

// clone returns the descriptor of a copy of the tree that l needs: mounts that
// nobody sees yet. A scratch directory has one build at a time.
func (t *inputTrees) clone(l *launch) (int, error) {
	tree, err := t.take(l)
	if err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(tree.root, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	t.mu.Lock()
	defer t.mu.Unlock()
	tree.busy = false
	if err != nil {
		t.drop(l.number)
		return -1, fmt.Errorf("clone the tree of inputs: %w", err)
	}
	t.bound()
	return fd, nil
}

// take returns the tree that l needs, busy.
func (t *inputTrees) take(l *launch) (*inputTree, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn++
	if tree := t.trees[l.number]; tree != nil {
		if tree.stubs == l.stubs {
			tree.used, tree.busy = t.turn, true
			return tree, nil
		}
		t.drop(l.number)
	}
	tree := &inputTree{stubs: l.stubs, root: -1, used: t.turn, busy: true}
	t.trees[l.number] = tree
	t.mu.Unlock()
	err := tree.mount(l)
	t.mu.Lock()
	t.mounts += tree.mounts
	if err != nil {
		t.drop(l.number)
	}
	return tree, err
}

// forget unmounts the tree of a scratch directory, if there is one.
func (t *inputTrees) forget(scratch uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(scratch)
}

// bound drops the trees that were not used for longest while there are too many
// mounts.
func (t *inputTrees) bound() {
	for t.mounts > maxTreeMounts {
		var oldest uint64
		for scratch, tree := range t.trees {
			if !tree.busy && (oldest == 0 || tree.used < t.trees[oldest].used) {
				oldest = scratch
			}
		}
		if oldest == 0 {
			return
		}
		t.drop(oldest)
	}
}

func (t *inputTrees) drop(scratch uint64) {
	tree := t.trees[scratch]
	if tree == nil {
		return
	}
	delete(t.trees, scratch)
	t.mounts -= tree.mounts
	if tree.root >= 0 {
		// The scratch directory may have another name, or have gone: then
		// nothing is mounted any more.
		_ = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", tree.root), unix.MNT_DETACH)
		unix.Close(tree.root)
	}
}

// mount mounts the inputs of l on their stubs.
func (tree *inputTree) mount(l *launch) (err error) {
	dir := l.storeDir()
	if err := mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	tree.mounts++
	if tree.root, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		return fmt.Errorf("open the tree of inputs: %w", err)
	}
	for _, base := range l.inputs {
		if err := unix.Mount(realDir+"/"+base, dir+"/"+base, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("input %s: %w", base, err)
		}
		tree.mounts++
	}
	return nil
}

func (l *launch) storeDir() string { return path.Join(buildsDir, l.scratch, "store") }
