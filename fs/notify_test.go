package fs

import "testing"

// slowKernel takes one word at a time, when it is let to.
type slowKernel struct{ asked, free chan struct{} }

func (k slowKernel) InodeNotify(uint64, int64, int64) error {
	k.asked <- struct{}{}
	<-k.free
	return nil
}

func (k slowKernel) Prune([]uint64) error { return k.InodeNotify(0, 0, 0) }

// What was told is what the kernel has heard to the end; what was added meanwhile is not
// waited for.
func TestTold(t *testing.T) {
	n, k := newNotifier(), slowKernel{make(chan struct{}), make(chan struct{})}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		n.run(k, func([]*node) []uint64 { return nil }, stop)
	}()
	over := func(told <-chan struct{}) bool {
		select {
		case <-told:
			return true
		default:
			return false
		}
	}
	if !over(n.told()) {
		t.Error("nothing was added, and is not told")
	}
	n.add([]*node{{id: 5}}) // itself, the root, and what is below it
	before := n.told()
	<-k.asked
	for range 2 {
		if over(before) || over(n.told()) {
			t.Error("it is told before the kernel has heard of it")
		}
		k.free <- struct{}{}
		<-k.asked
	}
	n.add(nil)
	later := n.told()
	k.free <- struct{}{}
	<-before
	<-k.asked
	if over(later) {
		t.Error("what was added later is told with the rest")
	}
	k.free <- struct{}{}
	<-later
	close(stop)
	<-ended
}
