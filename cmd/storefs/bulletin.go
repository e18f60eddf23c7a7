package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"storefs/event"
	"storefs/store"
)

// bulletinPace is how often a bulletin is read, at most.
const bulletinPace = time.Second

// bulletin is a line that says what a mount does, for the service manager to show: it is
// told when it is another one, and not more often than at its pace. It takes what happens
// while that is published, and is woken by no more than the first of it.
type bulletin struct {
	served store.Dir
	tell   func(line string)

	mu      sync.Mutex
	running map[store.Path]struct{} // goals that have a slot
	news    chan struct{}

	cancel context.CancelFunc
	ended  sync.WaitGroup
}

func newBulletin(served store.Dir, tell func(line string)) *bulletin {
	return &bulletin{served: served, tell: tell, running: map[store.Path]struct{}{}, news: make(chan struct{}, 1), cancel: func() {}}
}

// take is a filter of events. It wants none itself.
func (b *bulletin) take(e event.Event) bool {
	switch e.Kind {
	case event.Started:
		if e.Text == event.SlotApart && !e.Goal.IsExpr() {
			return false // a path is looked for elsewhere, and nothing is built for it yet
		}
		b.mu.Lock()
		b.running[e.Goal] = struct{}{}
	case event.Freed, event.Done, event.Failed, event.Dropped:
		b.mu.Lock()
		delete(b.running, e.Goal)
	default:
		return false
	}
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
	return false
}

// line is what there is to say now.
func (b *bulletin) line() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := len(b.running); n {
	case 0:
		return fmt.Sprintf("Serving %s, nothing is being built", b.served)
	case 1:
		return fmt.Sprintf("Serving %s, 1 build is running", b.served)
	default:
		return fmt.Sprintf("Serving %s, %d builds are running", b.served, n)
	}
}

// begin begins to tell, until close.
func (b *bulletin) begin() {
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(context.Background())
	b.ended.Go(func() {
		told := ""
		pause := time.NewTimer(0)
		defer pause.Stop()
		for {
			select {
			case <-pause.C:
			case <-ctx.Done():
				return
			}
			if line := b.line(); line != told {
				b.tell(line)
				told = line
			}
			pause.Reset(bulletinPace)
			select {
			case <-b.news:
			case <-ctx.Done():
				return
			}
		}
	})
}

// close ends that: nothing is told afterwards. It may be called more than once.
func (b *bulletin) close() {
	b.cancel()
	b.ended.Wait()
}
