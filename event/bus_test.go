package event

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryReaderGetsWhatItWants(t *testing.T) {
	var b Bus
	b.Publish(Event{Kind: Added, Goal: "before"})
	all, logs := b.Subscribe(nil), b.Subscribe(func(e Event) bool { return e.Kind == Log })
	b.Publish(Event{Kind: Added, Goal: "a"})
	b.Publish(Event{Kind: Log, Goal: "a", Text: "line"})
	all.Close()
	b.Publish(Event{Kind: Log, Goal: "a", Text: "late"})
	logs.Close()

	got, ok := all.Next(context.Background())
	if !ok || len(got) != 2 || got[0].Goal != "a" || got[1].Text != "line" || got[0].Time.IsZero() {
		t.Errorf("all: %v, %v", got, ok)
	}
	if got, ok := all.Next(context.Background()); ok {
		t.Errorf("after the end: %v", got)
	}
	if got, _ := logs.Next(context.Background()); len(got) != 2 || got[1].Text != "late" {
		t.Errorf("logs: %v", got)
	}
}

func TestSlowReadersLoseLogsOnly(t *testing.T) {
	var b Bus
	s := b.Subscribe(nil)
	defer s.Close()
	for range maxQueuedLog + 7 {
		b.Publish(Event{Kind: Log})
		b.Publish(Event{Kind: Added})
	}
	kinds := map[Kind]int{}
	lost := 0
	got, _ := s.Next(context.Background())
	for _, e := range got {
		kinds[e.Kind]++
		lost += e.Count
	}
	if kinds[Log] != maxQueuedLog || kinds[Added] != maxQueuedLog+7 || lost != 7 {
		t.Errorf("%v, %d lost", kinds, lost)
	}
	// What is lost is told once.
	b.Publish(Event{Kind: Log})
	if got, _ := s.Next(context.Background()); len(got) != 1 || got[0].Kind != Log {
		t.Errorf("afterwards: %v", got)
	}
}

// Who watches a store for weeks, and has stopped to read, does not have all of that kept.
func TestWatchersMissWhatTheyDoNotRead(t *testing.T) {
	var b Bus
	watcher, client := b.Watch(nil), b.Subscribe(nil)
	defer watcher.Close()
	defer client.Close()
	const most = maxWatched + maxQueuedLog
	for i := range 3*most + 7 {
		b.Publish(Event{Kind: Added, Count: i})
		if len(watcher.queue) > most {
			t.Fatalf("%d events wait", len(watcher.queue))
		}
	}
	got, _ := watcher.Next(context.Background())
	if len(got) != 8 || got[0].Kind != Missed || got[0].Count != 3*most || got[1].Count != 3*most {
		t.Errorf("%d events: %v", len(got), got[0])
	}
	b.Publish(Event{Kind: Done})
	if got, _ := watcher.Next(context.Background()); len(got) != 1 || got[0].Kind != Done {
		t.Errorf("afterwards: %v", got)
	}
	if got, _ := client.Next(context.Background()); len(got) != 3*most+8 {
		t.Errorf("who asked for something lost events: %d", len(got))
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Bus
		s := b.Subscribe(nil)
		start := time.Now()
		go func() {
			time.Sleep(time.Minute)
			b.Publish(Event{Kind: Valid})
		}()
		if got, ok := s.Next(t.Context()); !ok || len(got) != 1 || time.Since(start) != time.Minute {
			t.Errorf("%v, %v after %v", got, ok, time.Since(start))
		}
		go func() {
			time.Sleep(time.Minute)
			s.Close()
		}()
		if _, ok := s.Next(t.Context()); ok {
			t.Error("not ended by Close")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		other := b.Subscribe(nil)
		defer other.Close()
		if _, ok := other.Next(ctx); ok || ctx.Err() == nil {
			t.Error("not ended by its context")
		}
	})
}

func TestConcurrentReadersAndWriters(t *testing.T) {
	var b Bus
	var wg sync.WaitGroup
	const writers, each = 4, 500
	for range 3 {
		s := b.Subscribe(nil)
		wg.Go(func() {
			defer s.Close()
			for n := 0; n < writers*each; {
				got, ok := s.Next(t.Context())
				if !ok {
					t.Error("ended early")
					return
				}
				n += len(got)
			}
		})
	}
	for range writers {
		wg.Go(func() {
			for range each {
				b.Publish(Event{Kind: Added})
			}
		})
	}
	wg.Wait()
}
