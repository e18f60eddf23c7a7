package fstest

import (
	"bufio"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/event"
)

// seen is what `storefs status --watch --json` has shown so far.
type seen []event.Event

// watch follows the server's events until the test ends. The function that it
// returns gives what was seen so far; the events that come before watch
// returns may be missing.
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
	case <-time.After(10 * time.Second):
		l.t.Fatal("status --watch shows nothing")
	}
	return func() seen {
		time.Sleep(100 * time.Millisecond) // what has happened gets here within that
		mu.Lock()
		defer mu.Unlock()
		return append(seen(nil), events...)
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
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
