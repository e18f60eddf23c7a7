package builder

import "slices"

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
// systems that it may write to for itself. They are the spawner's one thread's.
type inputTrees struct {
	abandon func(*sandbox) // ends one that waited, sooner or later

	trees  map[uint64]*inputTree // by number of the scratch directory
	mounts int                   // of all of them
	spaces int                   // likewise
	turn   uint64                // counts uses
}

type inputTree struct {
	stubs  uint64
	mounts int        // in all of its namespaces
	used   uint64     // the turn of its last use
	busy   bool       // a build uses it
	gone   bool       // it is not among the trees any more
	spaces int        // namespaces that there are, or are being made
	ready  []*sandbox // what waits, or comes to, in those that no build is in
}

// take returns the tree for l, or nil if this is the first build that wants it:
// it may be the last as well. A scratch directory has one build at a time.
func (t *inputTrees) take(l *launch) *inputTree {
	t.turn++
	if tree := t.trees[l.number]; tree != nil && tree.stubs == l.stubs {
		tree.used, tree.busy = t.turn, true
		return tree
	}
	t.drop(l.number)
	t.trees[l.number] = &inputTree{stubs: l.stubs, used: t.turn}
	return nil
}

// grow reports whether another namespace may be made for a tree, and counts it.
func (t *inputTrees) grow(tree *inputTree, mounts int) bool {
	if tree.gone || tree.isFull() {
		return false
	}
	tree.spaces, t.spaces = tree.spaces+1, t.spaces+1
	tree.mounts, t.mounts = tree.mounts+mounts, t.mounts+mounts
	t.bound()
	return true
}

// next returns what waits in a namespace of a tree, or nil.
func (t *inputTrees) next(tree *inputTree) *sandbox {
	for len(tree.ready) > 0 {
		s := tree.ready[0]
		tree.ready = slices.Delete(tree.ready, 0, 1)
		if s.arrive() == nil && s.waits() {
			return s
		}
		t.lose(tree)
		s.tree = nil
		t.abandon(s)
	}
	return nil
}

// shed returns what waits in namespaces of trees, which is of none any more.
func (t *inputTrees) shed() (waiting []*sandbox) {
	for _, tree := range t.trees {
		for _, s := range tree.ready {
			t.lose(tree)
			s.tree = nil
			waiting = append(waiting, s)
		}
		tree.ready = nil
	}
	return waiting
}

// isFull reports whether a tree has all the namespaces that it may have.
func (tree *inputTree) isFull() bool { return tree.spaces == maxTreeSpaces }

// leave says that the build that took a tree is over. Its owner hears of that
// later: the next build that takes the tree comes after.
func (t *inputTrees) leave(tree *inputTree) {
	tree.busy = false
	t.bound()
}

// wanted reports whether a tree is still among the trees.
func (t *inputTrees) wanted(tree *inputTree) bool {
	return !tree.gone
}

// add adds what waits in a namespace of a tree.
func (t *inputTrees) add(tree *inputTree, s *sandbox) {
	if tree.gone {
		t.abandon(s)
		return
	}
	tree.ready = append(tree.ready, s)
}

// lose says that a namespace of a tree has gone.
func (t *inputTrees) lose(tree *inputTree) {
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
	for _, waits := range tree.ready {
		t.abandon(waits)
	}
	tree.ready = nil
}
