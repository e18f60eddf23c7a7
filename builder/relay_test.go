package builder_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/store"
)

// relayed is a build in its own goroutine.
type relayed struct {
	granted chan struct{}
	relay   chan builder.Relay
	cancel  func()
	next    chan store.Path // what it was told of
	ended   chan error
	drv     store.Path
}

// A build that is prepared starts when one of its pool ends well, if it may, and is
// the one with the highest rank; and not before it has its turn otherwise.
func TestRelay(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	if w.Built(w.Job("first", `echo > $out`, nil)).Release(); len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	n := 0
	// begin begins a build.
	begin := func(held bool, pool byte, heir int64, script string) *relayed {
		t.Helper()
		n++
		r := &relayed{granted: make(chan struct{}), relay: make(chan builder.Relay, 1), next: make(chan store.Path, 1), ended: make(chan error, 1)}
		job := w.Job(fmt.Sprint("job-", n), script+"; echo > $out", func(j *builder.Job) {
			if held {
				j.Turn = &builder.Turn{Granted: r.granted, Relay: r.relay}
			}
			j.Pool, j.Heir, j.Relayed = pool, heir, func(next store.Path) { r.next <- next }
		})
		r.drv = job.Drv
		ctx, cancel := context.WithCancel(t.Context())
		r.cancel = cancel
		go func() {
			res, err := w.Builder.Build(ctx, job)
			if err == nil {
				res.Release()
			}
			close(r.next)
			r.ended <- err
		}()
		return r
	}
	// hold begins one that waits, and returns when the spawner has been told r.
	hold := func(pool byte, r builder.Relay, script string) *relayed {
		h := begin(true, pool, builder.NoHeir, script)
		h.relay <- r
		h.relay <- r
		for len(h.relay) > 0 { // when the second has been taken, the first was sent on
			time.Sleep(time.Millisecond)
		}
		return h
	}
	for _, c := range []struct {
		name   string
		pool   byte
		heir   int64
		script string
		held   []builder.Relay // in pool 1
		want   int             // which of them starts, -1: none
	}{
		{"the highest", 1, 0, "true", []builder.Relay{{Open: true, Rank: 5}, {Open: true, Rank: 7}, {Open: true, Rank: 6}}, 1},
		{"the first of the same", 1, 0, "true", []builder.Relay{{Open: true, Rank: 5}, {Open: true, Rank: 5}}, 0},
		{"an open one", 1, 0, "true", []builder.Relay{{Open: false, Rank: 9}, {Open: true, Rank: 5}}, 1},
		{"closed", 1, 0, "true", []builder.Relay{{Open: false, Rank: 9}}, -1},
		{"another pool", 0, 0, "true", []builder.Relay{{Open: true, Rank: 9}}, -1},
		{"heirs", 1, 9, "true", []builder.Relay{{Open: true, Rank: 9}}, -1},
		{"no heir", 1, builder.NoHeir, "true", []builder.Relay{{Open: true, Rank: 9}}, -1},
		{"failure", 1, 0, "exit 7", []builder.Relay{{Open: true, Rank: 9}}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var held []*relayed
			for _, r := range c.held {
				held = append(held, hold(1, r, "true"))
			}
			a := begin(false, c.pool, c.heir, c.script)
			next := <-a.next
			if err := <-a.ended; (err != nil) != (c.name == "failure") {
				t.Fatal(err)
			}
			want := store.Path("")
			if c.want >= 0 {
				want = held[c.want].drv
			}
			if next != want {
				t.Errorf("%q was started, want %q", next, want)
			}
			if c.want >= 0 { // it has ended meanwhile, or will
				close(held[c.want].granted)
				if err := <-held[c.want].ended; err != nil {
					t.Error(err)
				}
			}
			for i, h := range held {
				switch {
				case i == c.want:
				case i == 0: // it can still have its turn
					close(h.granted)
					if err := <-h.ended; err != nil {
						t.Error(err)
					}
				default:
					h.cancel()
					if err := <-h.ended; !errors.Is(err, store.ErrCancelled) {
						t.Errorf("cancelled: %v", err)
					}
				}
			}
		})
	}
	// One that was started, and is cancelled before anybody says so, is killed,
	// whether its builder runs by then or not.
	for _, after := range []time.Duration{0, 100 * time.Millisecond} {
		h := hold(1, builder.Relay{Open: true, Rank: 1}, "sleep 1000")
		a := begin(false, 1, 0, "true")
		if next := <-a.next; next != h.drv {
			t.Fatalf("%q was started", next)
		}
		time.Sleep(after)
		h.cancel()
		if err := <-h.ended; !errors.Is(err, store.ErrCancelled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := <-a.ended; err != nil {
			t.Error(err)
		}
	}
}

// A build that is held has its sandbox: whatever becomes of that, it has another one
// when it starts, and leaves nothing if it does not.
func TestHeldSandboxIsKilled(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	if w.Built(w.Job("first", `echo > $out`, nil)).Release(); len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	type outcome struct {
		r   *builder.Result
		err error
	}
	// Each build has an input that no other one has, since a sandbox of an earlier
	// build may wait for the next one that has the same.
	waitsFor := func(name string) bool {
		for pid := range waiting(t) {
			mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
			if err == nil && strings.Contains(string(mounts), "-input-of-"+name+" ") {
				return true
			}
		}
		return false
	}
	hold := func(name string) (granted chan struct{}, cancel func(), ended chan outcome) {
		granted, ended = make(chan struct{}), make(chan outcome, 1)
		ctx, cancel := context.WithCancel(t.Context())
		input := w.AddText("input-of-"+name, "text")
		job := w.Job(name, `cat `+string(input.Path)+` > $out`, func(j *builder.Job) {
			j.Turn = &builder.Turn{Granted: granted}
			j.Inputs = append(j.Inputs, input)
		})
		go func() {
			r, err := w.Builder.Build(ctx, job)
			ended <- outcome{r, err}
		}()
		for end := time.Now().Add(time.Minute); !waitsFor(name); {
			if time.Now().After(end) {
				t.Fatal("no sandbox waits for it")
			}
		}
		return granted, cancel, ended
	}
	granted, _, ended := hold("killed")
	for pid := range waiting(t) {
		killAndSee(t, pid)
	}
	close(granted)
	o := <-ended
	if o.err != nil {
		t.Fatal(o.err)
	}
	if got := w.Text(o.r); got != "text" {
		t.Errorf("it wrote %q", got)
	}
	o.r.Release()

	processes, files := 0, 0
	for i := range 8 {
		name := fmt.Sprint("cancelled-", i)
		_, cancel, ended := hold(name)
		cancel()
		if o := <-ended; !errors.Is(o.err, store.ErrCancelled) {
			t.Errorf("cancelled: %v", o.err)
		}
		for end := time.Now().Add(time.Minute); waitsFor(name); {
			if time.Now().After(end) {
				t.Fatal("its sandbox still waits")
			}
		}
		if i == 3 { // what can be used again is there by now
			processes, files = len(waiting(t)), spawnerFiles(t)
		}
	}
	if now := len(waiting(t)); now > processes {
		t.Errorf("%d sandboxes wait, which were %d", now, processes)
	}
	if now := spawnerFiles(t); now > files {
		t.Errorf("%d files are open, which were %d", now, files)
	}
}
