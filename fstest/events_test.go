package fstest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/event"
	"storefs/store"
)

// seen is what `storefs status --watch --json` has shown so far.
type seen []event.Event

// watch follows the server's events until the test ends. The function that it
// returns gives what has happened so far, and adds a file to the store for that; the
// events that come before watch returns may be missing.
func (l *lab) watch() func() seen {
	l.t.Helper()
	cmd := l.command("status", "--watch", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	var mu sync.Mutex
	var events seen
	ready := make(chan struct{})
	go func() {
		first := true
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			if first {
				close(ready) // the first line is the present state
				first = false
			}
			var e event.Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				mu.Lock()
				events = append(events, e)
				mu.Unlock()
			}
		}
		if first {
			close(ready)
		}
	}()
	l.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	select {
	case <-ready:
	case <-time.After(time.Minute):
		l.t.Fatal("status --watch shows nothing")
	}
	return func() (now seen) {
		l.t.Helper()
		// They come in the order in which they happen: what is before that has come.
		mark := store.Path(l.ok("add", l.write("mark", fmt.Sprint(time.Now().UnixNano())))[0])
		waitFor(l.t, "what has happened", func() bool {
			mu.Lock()
			defer mu.Unlock()
			now = slices.Clone(events)
			return slices.ContainsFunc(now, func(e event.Event) bool { return slices.Contains(e.Paths, mark) })
		})
		return now
	}
}

func (s seen) count(kind event.Kind, name string) int {
	n := 0
	for _, e := range s {
		if e.Kind == kind && (name == "" || strings.HasSuffix(string(e.Goal), "-"+name+".drv")) {
			n++
		}
	}
	return n
}

// built counts the builds of the derivation called name that succeeded.
func (s seen) built(name string) int {
	n := 0
	for _, e := range s {
		if e.Kind == event.Done && e.Text == event.OutcomeBuilt && (name == "" || strings.HasSuffix(string(e.Goal), "-"+name+".drv")) {
			n++
		}
	}
	return n
}

func (s seen) started() int                 { return s.count(event.Started, "") }
func (s seen) startedGoal(name string) bool { return s.count(event.Started, name) > 0 }

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
