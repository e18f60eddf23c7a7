package builder

import "sync"

const (
	// maxTreeMounts is the most mounts that trees have together. The kernel
	// allows 100,000 in a namespace.
	maxTreeMounts = 30_000
	// maxTreeSpaces is the most mount namespaces of one tree: while a build is in
	// one, the next build's sandbox is made in the other.
	maxTreeSpaces = 2
	// maxSpaces is the most of all trees: a process waits in each.
	maxSpaces = 32
)

// inputTrees are scratch directories with all inputs mounted, each in namespaces
// of its own, for as long as the scratch directory keeps the same stubs. To mount
// and unmount an input takes the kernel ten microseconds, so that many of them take
// longer than all the rest of a sandbox: what is mounted once serves one build
// after the other. None of them has a right to change it, and each has the file
// systems that it may write to for itself.
type inputTrees struct {
	abandon func(*sandbox) // ends one that waited

	mu     sync.Mutex
	trees  map[uint64]*inputTree // by number of the scratch directory
	mounts int                   // of all of them
	spaces int                   // likewise
	turn   uint64                // counts uses
}

type inputTree struct {
	stubs  uint64
	mounts int    // in all of its namespaces
	used   uint64 // the turn of its last use
	busy   bool   // a build uses it
	gone   bool   // it is not among the trees any more
	spaces int    // namespaces that there are, or are being made
	// ready are what waits in those that no build is in. There is room for all.
	ready chan preparation
}

// take returns the tree for l, or nil if this is the first build that wants it:
// it may be the last as well. A scratch directory has one build at a time.
func (t *inputTrees) take(l *launch) *inputTree {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn++
	if tree := t.trees[l.number]; tree != nil && tree.stubs == l.stubs {
		tree.used, tree.busy = t.turn, true
		return tree
	}
	t.drop(l.number)
	t.trees[l.number] = &inputTree{stubs: l.stubs, used: t.turn, ready: make(chan preparation, maxTreeSpaces)}
	return nil
}

// grow reports whether another namespace may be made for a tree, and counts it.
func (t *inputTrees) grow(tree *inputTree, mounts int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tree.gone || tree.spaces == maxTreeSpaces {
		return false
	}
	tree.spaces, t.spaces = tree.spaces+1, t.spaces+1
	tree.mounts, t.mounts = tree.mounts+mounts, t.mounts+mounts
	t.bound()
	return true
}

// next returns what waits in a namespace of a tree, or nil if another namespace
// may be made. If it is being made there, next waits for it: the build that was
// there is over.
func (t *inputTrees) next(tree *inputTree) *sandbox {
	for {
		var p preparation
		select {
		case p = <-tree.ready:
		default:
			t.mu.Lock()
			all := tree.spaces == maxTreeSpaces
			t.mu.Unlock()
			if !all {
				return nil
			}
			p = <-tree.ready
		}
		if p.err != nil {
			continue
		}
		if p.sandbox.waits() {
			return p.sandbox
		}
		t.lose(tree)
		p.sandbox.tree = nil
		go t.abandon(p.sandbox)
	}
}

// leave says that the build that took a tree is over. Its owner hears of that
// later: the next build that takes the tree comes after.
func (t *inputTrees) leave(tree *inputTree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tree.busy = false
	t.bound()
}

// wanted reports whether a tree is still among the trees.
func (t *inputTrees) wanted(tree *inputTree) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !tree.gone
}

// add adds what waits in a namespace of a tree, or why nothing does: then that
// namespace is lost.
func (t *inputTrees) add(tree *inputTree, p preparation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !tree.gone:
		if p.err != nil {
			t.remove(tree)
		}
		tree.ready <- p
	case p.err == nil:
		go t.abandon(p.sandbox)
	}
}

// lose says that a namespace of a tree has gone.
func (t *inputTrees) lose(tree *inputTree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !tree.gone {
		t.remove(tree)
	}
}

func (t *inputTrees) remove(tree *inputTree) {
	each := tree.mounts / tree.spaces
	tree.spaces, t.spaces = tree.spaces-1, t.spaces-1
	tree.mounts, t.mounts = tree.mounts-each, t.mounts-each
}

// forget drops the tree of a scratch directory, if there is one.
func (t *inputTrees) forget(scratch uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(scratch)
}

// bound drops the trees that were not used for longest while there are too many
// mounts or namespaces.
func (t *inputTrees) bound() {
	for t.mounts > maxTreeMounts || t.spaces > maxSpaces {
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
	t.mounts, t.spaces = t.mounts-tree.mounts, t.spaces-tree.spaces
	tree.gone = true
	for {
		select {
		case p := <-tree.ready:
			if p.err == nil {
				go t.abandon(p.sandbox)
			}
		default:
			return
		}
	}
}
