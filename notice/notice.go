// Package notice tells a process that waits in the mount what it waits for: one
// line on its own terminal, and only if its environment asks for that. It stands
// around what realises for the mount, and changes nothing of what that does.
package notice

import (
	"context"
	"sync"
	"time"

	"storefs/fs"
)

// Variable is the environment variable by which a process asks to be told: it
// must be "1", when the process begins.
const Variable = "STOREFS_NOTIFY"

// Patience is how long a process waits before it is told.
const Patience = time.Second

// grace is how long somebody who need not wait any more is kept by one who is still
// looking at it: files of a process may be out of reach, and so may be its memory.
const grace = 100 * time.Millisecond

// Teller is a Realiser that tells those who wait for another one.
type Teller struct {
	realiser fs.Realiser
	text     func(fs.Call) string

	mu   sync.Mutex
	told map[place]int // those who wait there for that
}

// place is what was said where: many who wait for one thing on one terminal are
// told once.
type place struct {
	terminal terminal
	name     string
}

var _ fs.Realiser = (*Teller)(nil)

// New makes a Teller. text is what there is to say to a caller now: one line,
// without control characters, or "". It must be quick.
func New(r fs.Realiser, text func(fs.Call) string) *Teller {
	return &Teller{realiser: r, text: text, told: map[place]int{}}
}

// Realise is that of the other Realiser.
func (t *Teller) Realise(ctx context.Context, c fs.Call) error {
	if c.PID == 0 {
		return t.realiser.Realise(ctx, c)
	}
	over, left := make(chan struct{}), make(chan struct{})
	later := time.AfterFunc(Patience, func() {
		defer close(left)
		if at := t.tell(c); at != nil {
			<-over
			t.leave(at)
		}
	})
	err := t.realiser.Realise(ctx, c)
	close(over)
	if !later.Stop() {
		select {
		case <-left:
		case <-time.After(grace):
		}
	}
	return err
}

// tell says to c what it waits for, if it wants to hear that and nobody else on
// the same terminal waits for the same. It returns where, nil if nowhere.
func (t *Teller) tell(c fs.Call) *place {
	if !asked(c.PID) {
		return nil
	}
	f, at := openTerminal(c.PID, c.UID)
	if f == nil {
		return nil
	}
	defer f.Close()
	p := &place{at, c.Name}
	t.mu.Lock()
	t.told[*p]++
	first := t.told[*p] == 1
	t.mu.Unlock()
	if first {
		if text := t.text(c); text != "" {
			write(f, "\rstorefs: "+text+"\r\n")
		}
	}
	return p
}

// leave: one who waited there has gone.
func (t *Teller) leave(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told[*p]--; t.told[*p] == 0 {
		delete(t.told, *p)
	}
}
