package main

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"storefs/event"
	"storefs/store"
)

func TestBulletin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var told []string
		b := newBulletin("/s", func(line string) {
			told = append(told, fmt.Sprintf("%v %s", time.Since(began), line))
		})
		var events event.Bus
		defer events.Subscribe(b.take).Close()
		publish := func(k event.Kind, goals ...string) {
			for _, g := range goals {
				events.Publish(event.Event{Kind: k, Goal: store.Path(g)})
			}
		}
		publish(event.Started, "before")
		b.begin()
		defer b.close()
		synctest.Wait()
		publish(event.Failed, "before")
		time.Sleep(10 * time.Second)
		// The first news is told at once, what follows when it is time.
		publish(event.Started, "a")
		synctest.Wait()
		publish(event.Started, "b", "c", "d")
		publish(event.Dropped, "b")
		time.Sleep(100 * time.Millisecond)
		publish(event.Freed, "d")
		time.Sleep(10 * time.Second)
		// What is as before is not told, nor what is over within a second. It is read
		// between two of them, never at the same instant, at which anything may be seen.
		publish(event.Dropped, "nobody")
		synctest.Wait()
		time.Sleep(bulletinPace / 20)
		publish(event.Started, "e")
		publish(event.Done, "a", "d")
		for range 95 {
			publish(event.Added, "f")
			publish(event.Started, "f")
			publish(event.Done, "f")
			time.Sleep(bulletinPace / 10)
		}
		publish(event.Done, "c", "e")
		time.Sleep(10 * time.Second)
		// A path that a substitute gives is none, but the builder of that is.
		for _, g := range []store.Path{"/s/00000000000000000000000000000000-p", "/s/00000000000000000000000000000000-p.store"} {
			events.Publish(event.Event{Kind: event.Started, Goal: g, Text: event.SlotApart})
			time.Sleep(10 * time.Second)
			events.Publish(event.Event{Kind: event.Done, Goal: g})
			time.Sleep(10 * time.Second)
		}
		b.close()
		publish(event.Started, "g")
		time.Sleep(10 * time.Second)
		want := []string{
			"0s Serving /s, 1 build is running",
			"1s Serving /s, nothing is being built",
			"10s Serving /s, 1 build is running",
			"11s Serving /s, 2 builds are running",
			"30.1s Serving /s, nothing is being built",
			"59.65s Serving /s, 1 build is running",
			"1m9.65s Serving /s, nothing is being built",
		}
		if !slices.Equal(told, want) {
			t.Errorf("told\n%q, want\n%q", told, want)
		}
	})
}
