package fs

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowKernel takes one word at a time, when it is let to.
type slowKernel struct{ asked, free chan struct{} }

func (k slowKernel) InodeNotify(uint64, int64, int64) error {
	k.asked <- struct{}{}
	<-k.free
	return nil
}

func (k slowKernel) Prune([]uint64) error { return k.InodeNotify(0, 0, 0) }

// fakeTable is of nodes with nothing below, of which one may be open.
type fakeTable struct {
	open    atomic.Uint64
	dropped chan []uint64
}

func (f *fakeTable) below(tops []*node) (ids []uint64) {
	for _, n := range tops {
		ids = append(ids, n.id)
	}
	return ids
}

func (f *fakeTable) held(ids []uint64) []uint64 {
	return slices.DeleteFunc(ids, func(id uint64) bool { return f.open.Load() != id })
}

func (f *fakeTable) drop(ids []uint64) { f.dropped <- ids }

// pruningKernel notes what it is to drop.
type pruningKernel struct {
	began  time.Time
	err    error
	mu     sync.Mutex
	pruned map[uint64][]time.Duration
}

// at are the times when it was to drop a node.
func (k *pruningKernel) at(id uint64) []time.Duration {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.pruned[id])
}

func (k *pruningKernel) InodeNotify(uint64, int64, int64) error { return nil }

func (k *pruningKernel) Prune(ids []uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		k.pruned[id] = append(k.pruned[id], time.Since(k.began))
	}
	return k.err
}

// What is gone and in use is dropped once nobody uses it, and nothing is asked for after that.
func TestPrunedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, stop := newNotifier(), make(chan struct{})
		k := &pruningKernel{began: time.Now(), pruned: make(map[uint64][]time.Duration)}
		table := new(fakeTable)
		table.open.Store(5)
		go n.run(k, table, stop)
		n.add([]*node{{id: 5}, {id: 6}})
		for range 100 { // what becomes valid is no reason
			time.Sleep(100 * time.Millisecond)
			n.add(nil)
		}
		if got := k.at(6); len(got) != 1 || got[0] != 0 {
			t.Errorf("what is not used was pruned at %v", got)
		}
		if got, want := k.at(5), []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}; !slices.Equal(got, want) {
			t.Errorf("what is used was pruned at %v, want %v", got, want)
		}
		time.Sleep(time.Hour)
		if got := len(k.at(5)); got < 60 || got > 70 {
			t.Errorf("pruned %d times in an hour", got)
		}
		table.open.Store(0)
		time.Sleep(2 * time.Minute)
		before := len(k.at(5))
		time.Sleep(time.Hour)
		if len(k.at(5)) != before {
			t.Error("what is closed is pruned")
		}
		close(stop)
		synctest.Wait()
	})
}

// A kernel that cannot drop nodes keeps them: nothing is open for them then.
func TestDropWhatIsNotPruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, stop := newNotifier(), make(chan struct{})
		k := &pruningKernel{began: time.Now(), pruned: make(map[uint64][]time.Duration), err: errors.New("it does not know how to")}
		table := &fakeTable{dropped: make(chan []uint64, 2)}
		table.open.Store(5)
		go n.run(k, table, stop)
		n.add([]*node{{id: 5}})
		time.Sleep(time.Hour)
		if pruned := k.at(5); len(pruned) != 1 || len(table.dropped) != 1 || !slices.Equal(<-table.dropped, []uint64{5}) {
			t.Errorf("pruned at %v, dropped %d times", pruned, len(table.dropped))
		}
		close(stop)
		synctest.Wait()
	})
}

// What was told is what the kernel has heard to the end; what was added meanwhile is not
// waited for.
func TestTold(t *testing.T) {
	n, k := newNotifier(), slowKernel{make(chan struct{}), make(chan struct{})}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		n.run(k, new(fakeTable), stop)
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
