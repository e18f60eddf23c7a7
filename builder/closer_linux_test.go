package builder

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// What is closed fast is closed at once, and what is not by another thread, each once; and
// whoever needs what it took up can wait for that.
func TestCloser(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("there is one processor, and so no other thread")
	}
	c, err := newCloser()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var closed []int
	const gated = 1
	begun, gate := make(chan struct{}, 2*closeBehind), make(chan struct{})
	c.close = func(s space) {
		if s.users == gated {
			begun <- struct{}{}
			<-gate
		}
		mu.Lock()
		defer mu.Unlock()
		closed = append(closed, s.mounts)
	}
	number := 0
	take := func(users int) {
		c.take(space{mounts: number, users: users})
		number++
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(closed)
	}
	for range 2 * closeAgain {
		if take(-1); count() != number {
			t.Fatalf("%d of %d are closed", count(), number)
		}
	}
	if c.settle() {
		t.Error("there was something to wait for")
	}
	c.takes, c.count = 0, 0
	c.take(space{mounts: number, users: gated, heavy: true}) // which would wait for ever
	number++
	<-begun
	gate <- struct{}{}
	c.settle()
	c.takes = time.Second
	take(-1)
	if c.settle(); count() != number {
		t.Errorf("%d of %d are closed", count(), number)
	}
	take(gated) // which would wait for ever
	<-begun
	for range closeBehind {
		take(gated)
	}
	before := count()
	if take(-1); count() != before+1 {
		t.Error("nobody closes what the other thread has no room for")
	}
	c.takes = time.Second
	settled := make(chan bool)
	go func() { settled <- c.settle() }()
	for range 1 + closeBehind {
		select {
		case <-settled:
			t.Fatal("it did not wait")
		case gate <- struct{}{}:
		}
	}
	if <-settled; count() != number {
		t.Errorf("%d of %d are closed", count(), number)
	}
	// Now and then one is closed here, and so it is seen that they are fast again.
	for most := 1000 * closeAgain; c.takes > slowClose; most-- {
		if take(-1); most == 0 {
			t.Fatalf("one takes %v, still", c.takes)
		}
	}
	c.settle()
	slices.Sort(closed)
	for i, n := range closed {
		if i != n || len(closed) != number {
			t.Fatalf("%d of %d are closed: %v", len(closed), number, closed[:i+1])
		}
	}
}
