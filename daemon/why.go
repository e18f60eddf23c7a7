package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/progress"
	"storefs/store"
)

// States of a path, as Why tells them.
const (
	StateRealised = "realised"
	StateDamaged  = "damaged" // realised, but not what was registered
	StateFailed   = "failed"
	StateRunning  = "running"
	StateWaiting  = "waiting" // for its turn
	StateKnown    = "known"   // something can make it, nothing has
	StateUnknown  = "unknown" // nothing can
)

// Why is what there is to say about a path.
type Why struct {
	Path     store.Path          `json:"path"`
	State    string              `json:"state"`
	Derivers []store.Path        `json:"derivers,omitempty"` // the derivations that make it
	Info     *store.Info         `json:"info,omitempty"`     // if it is realised
	Goal     *normaliser.Running `json:"goal,omitempty"`     // if it is running
	Failure  *store.Failure      `json:"failure,omitempty"`  // if it failed
	Damage   *store.Damage       `json:"damage,omitempty"`   // if it is damaged, or was and is repaired
	Denied   []Denial            `json:"denied,omitempty"`   // the last callers who got EACCES
}

// Denial is a caller of the mount who may not start what it asked for.
type Denial struct {
	Command string    `json:"command,omitempty"` // "" if that could not be seen
	PID     int       `json:"pid,omitempty"`     // likewise 0
	UID     uint32    `json:"uid"`
	Policy  string    `json:"policy"` // that denied it
	Time    time.Time `json:"time"`   // the last time
}

// String is the denial for people, in a part of a line, without its time.
func (d Denial) String() string {
	who := cmp.Or(progress.Clean(d.Command), "somebody")
	if d.PID != 0 {
		who += fmt.Sprintf(" (pid %d, uid %d)", d.PID, d.UID)
	} else {
		who += fmt.Sprintf(" (uid %d)", d.UID)
	}
	return who + " was denied by " + d.Policy
}

// Why tells what is known of p: a derivation, a closure, an output, a source.
func (s *Server) Why(ctx context.Context, p store.Path) (*Why, error) {
	y, err := s.state(ctx, p)
	if err == nil && s.Denied != nil {
		y.Denied = s.Denied(p)
	}
	return y, err
}

func (s *Server) state(ctx context.Context, p store.Path) (*Why, error) {
	y := &Why{Path: p, State: StateUnknown}
	derivers, err := s.Querier.Related(ctx, Deriver, p)
	if err != nil {
		return nil, err
	}
	y.Derivers = derivers

	// A derivation is a valid path as soon as it is known; what people ask is
	// how far its outputs have come.
	goals := derivers
	if p.IsExpr() {
		goals = append([]store.Path{p}, derivers...)
	}
	for _, g := range s.Realiser.Status().Running {
		for _, p := range append(goals, p) {
			if g.Goal == p && !g.Check {
				y.State, y.Goal = StateRunning, &g
				return y, nil
			}
		}
	}
	realised, info, err := s.realised(ctx, p)
	if err != nil {
		return nil, err
	}
	if realised {
		y.State, y.Info = StateRealised, info
		y.Damage, err = s.Records.Damage(p)
		if y.Damage != nil && y.Damage.Repaired.IsZero() {
			y.State = StateDamaged
		}
		return y, err
	}
	for _, g := range append(goals, p) {
		if s.Realiser.Wanted(g) {
			y.State = StateWaiting
			return y, nil
		}
	}
	for _, g := range append([]store.Path{p}, goals...) {
		f, err := s.Records.Failure(g)
		if err != nil {
			return nil, err
		}
		if f != nil && f.Cause == store.CauseUnknown && f.Path == p {
			continue // whoever asked for it learned no more than what follows, which is of now
		}
		if f != nil {
			y.State, y.Failure = StateFailed, f
			return y, nil
		}
	}
	substitutes, err := s.Querier.Related(ctx, Substitutes, p)
	if err != nil {
		return nil, err
	}
	if len(goals) > 0 && (info != nil || len(derivers) > 0) || len(substitutes) > 0 {
		y.State = StateKnown
	}
	return y, nil
}

// realised reports whether p has nothing left to be done for it: a normal form
// if it is an expression, validity if not. The Info is there if p is valid.
func (s *Server) realised(ctx context.Context, p store.Path) (bool, *store.Info, error) {
	info, err := s.Querier.Info(p)
	if errors.Is(err, store.ErrNotValid) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	if !p.IsDerivation() {
		return true, &info, nil
	}
	outputs, err := s.Querier.Related(ctx, Outputs, p)
	if err != nil {
		return false, nil, err
	}
	for _, o := range outputs {
		if _, err := s.Querier.Info(o); err != nil {
			if errors.Is(err, store.ErrNotValid) {
				return false, &info, nil
			}
			return false, nil, err
		}
	}
	return true, &info, nil
}

// Text is the answer for people: lines, each ended by a newline, and harmless for a
// terminal, as they have what a builder wrote, and names of files that it made.
func (y *Why) Text() string {
	var b strings.Builder
	for line := range strings.Lines(y.text()) {
		b.WriteString(progress.Clean(line) + "\n")
	}
	for _, d := range y.Denied {
		fmt.Fprintf(&b, "%s: %s\n", d.Time.Format(time.RFC3339), d)
	}
	return b.String()
}

func (y *Why) text() string {
	var b strings.Builder
	switch y.State {
	case StateFailed:
		if y.Failure.Path != y.Path && len(y.Failure.Chain) < 2 {
			fmt.Fprintf(&b, "%s: not realised: its derivation failed\n", y.Path)
		}
		f := *y.Failure
		f.Log = slices.Clone(f.Log)
		for i, line := range f.Log {
			f.Log[i] = progress.Clean(line) // by itself: it overwrites no more than itself
		}
		b.WriteString(f.Text())
		return b.String()
	case StateRealised, StateDamaged:
		fmt.Fprintf(&b, "%s: %s\n", y.Path, y.State)
		if y.Damage != nil {
			b.WriteString(y.Damage.Text())
		}
		if y.Info.Registered != 0 {
			fmt.Fprintf(&b, "registered: %s\n", y.Info.RegisteredAt().Format(time.RFC3339))
		}
	case StateRunning:
		fmt.Fprintf(&b, "%s: being realised since %s (%s)\n", y.Path, y.Goal.Since.Format(time.RFC3339), y.Goal.Phase)
		if y.Goal.Goal != y.Path {
			fmt.Fprintf(&b, "by: %s\n", y.Goal.Goal)
		}
		return b.String()
	case StateWaiting:
		fmt.Fprintf(&b, "%s: not realised yet; it waits for other goals, or for a slot\n", y.Path)
	case StateKnown:
		if len(y.Denied) > 0 {
			fmt.Fprintf(&b, "%s: not realised; who asked for it may not start that\n", y.Path)
			break
		}
		fmt.Fprintf(&b, "%s: not realised; nothing has asked for it, or nobody waited\n", y.Path)
	default:
		fmt.Fprintf(&b, "%s: unknown: %v\n", y.Path, store.ErrUnknown)
	}
	for _, d := range y.Derivers {
		fmt.Fprintf(&b, "derivation: %s\n", d)
	}
	return b.String()
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) error {
	p, err := s.pathOf(r, "path")
	if err != nil {
		return err
	}
	y, err := s.Why(r.Context(), p)
	if err != nil {
		return err
	}
	writeJSON(w, y)
	return nil
}

// Log writes the log of p, a derivation or an output, to w. With follow it waits for
// the builder, if that is to run, and goes on as long as it runs.
func (s *Server) Log(ctx context.Context, p store.Path, follow bool, w io.Writer) error {
	drv, err := s.logged(ctx, p)
	if err != nil {
		return err
	}
	// Subscribed before the first look, so that no line falls in between.
	sub := s.Events.Subscribe(func(e event.Event) bool { return e.Goal == drv })
	defer sub.Close()
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for {
		running := follow && s.running(drv)
		if f == nil && follow && !running && s.Realiser.Wanted(drv) {
			if _, ok := sub.Next(ctx); !ok {
				return nil
			}
			continue // what is there is of another time
		}
		if f == nil {
			f, err = os.Open(s.Records.LogFile(drv))
			if err != nil && (!errors.Is(err, os.ErrNotExist) || !running) {
				return fmt.Errorf("log %s: %w", drv, err)
			}
		}
		if f != nil {
			if _, err := io.Copy(w, f); err != nil {
				return fmt.Errorf("log %s: %w", drv, err)
			}
		}
		if !running {
			return nil
		}
		if fl, ok := w.(*bodyWriter); ok {
			fl.flush()
		}
		if _, ok := sub.Next(ctx); !ok {
			return nil
		}
	}
}

// logged is the derivation whose log is meant by p: its own, or that of the
// first deriver that has one. What is called like an expression of 2004 is one if
// nothing makes it.
func (s *Server) logged(ctx context.Context, p store.Path) (store.Path, error) {
	if p.IsDerivation() {
		return p, nil
	}
	derivers, err := s.Querier.Related(ctx, Deriver, p)
	if err != nil {
		return "", err
	}
	for _, d := range derivers {
		if _, err := os.Stat(s.Records.LogFile(d)); err == nil || s.running(d) || s.Realiser.Wanted(d) {
			return d, nil
		}
	}
	switch {
	case len(derivers) > 0:
		return derivers[0], nil
	case p.IsExpr():
		return p, nil
	}
	return "", fmt.Errorf("log %s: no derivation is known that makes it: %w", p, store.ErrUnknown)
}

func (s *Server) running(drv store.Path) bool {
	for _, g := range s.Realiser.Status().Running {
		if g.Goal == drv {
			return true
		}
	}
	return false
}

func (s *Server) log(w http.ResponseWriter, r *http.Request) error {
	p, err := s.pathOf(r, "path")
	if err != nil {
		return err
	}
	return sendBody(w, func(body io.Writer) error {
		return s.Log(r.Context(), p, r.FormValue("follow") != "", body)
	})
}
