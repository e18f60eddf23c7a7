package prefetch

import (
	"context"
	"slices"
	"sync"
	"time"

	"storefs/store"
)

// Options say what a Learner works with.
type Options struct {
	Dir      store.Dir
	Store    Store
	Realiser Realiser
	// Alive reports whether the process still runs.
	Alive func(pid int, start uint64) bool
	// Failed is told when something cannot be read or kept. It may be nil.
	Failed func(error)
}

// Learner is told of touches, and prefetches. Close it.
type Learner struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	touch  chan touch
	wg     sync.WaitGroup
}

type touch struct {
	program Program
	path    store.Path
	time    time.Time
}

// waitingTouches are how many touches may wait for the learner. Whoever comes
// when there are more is not learned from: nobody waits for learning.
const waitingTouches = 4096

// New begins a learner.
func New(o Options) *Learner {
	l := &Learner{o: o, touch: make(chan touch, waitingTouches)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(l.run)
	return l
}

// Touched says that the program looked p up, or waits for it. It never blocks.
func (l *Learner) Touched(program Program, p store.Path) {
	select {
	case l.touch <- touch{program, p, time.Now()}:
	default:
	}
}

// Close keeps what was learned, and ends what is being prefetched.
func (l *Learner) Close() {
	l.cancel()
	l.wg.Wait()
}

// process identifies one.
type process struct {
	pid   int
	start uint64
}

// visit is a program that is watched. Only the learner's goroutine touches it.
type visit struct {
	process
	executable string
	program    string
	since      time.Time
	kept       bool
	touched    []store.Path
	seen       map[store.Path]bool
	// trail is the one that it follows; it has no steps if it lays a new one.
	trail Trail
	ahead []store.Path // what was prefetched for it
}

const (
	// lookAround is how often it is looked which programs have ended.
	lookAround = time.Second
	// attempts is how many touches of a program may be compared with trails
	// until one fits.
	attempts = 8
)

func (l *Learner) run() {
	visits := map[process]*visit{}
	tick := time.NewTicker(lookAround)
	defer tick.Stop()
	for {
		select {
		case t := <-l.touch:
			l.take(visits, t)
		case now := <-tick.C:
			l.catchUp(visits) // what somebody touched last, before he ended
			l.end(visits, func(v *visit) bool { return now.Sub(v.since) > Window || !l.o.Alive(v.pid, v.start) })
		case <-l.ctx.Done():
			l.catchUp(visits)
			l.end(visits, func(*visit) bool { return true })
			return
		}
	}
}

// catchUp takes what waits to be taken.
func (l *Learner) catchUp(visits map[process]*visit) {
	for len(l.touch) > 0 {
		l.take(visits, <-l.touch)
	}
}

// end keeps what was learned of the visits that are over.
func (l *Learner) end(visits map[process]*visit, over func(*visit) bool) {
	for p, v := range visits {
		if !v.kept && over(v) {
			l.keep(v)
		}
		if v.kept {
			delete(visits, p)
		}
	}
}

func (l *Learner) take(visits map[process]*visit, t touch) {
	v := l.visit(visits, t)
	if v == nil || v.seen[t.path] || len(v.touched) > MaxPaths {
		return
	}
	v.seen[t.path] = true
	v.touched = append(v.touched, t.path)
	if len(v.trail.Steps) == 0 && len(v.touched) <= attempts {
		l.follow(v, t)
	}
}

// visit is the one that the touch belongs to, nil if it is not watched. What a
// program has others do for it, cat or a compiler's driver, is its own doing;
// but a program of the store is one by itself, whoever began it.
func (l *Learner) visit(visits map[process]*visit, t touch) *visit {
	p := process{t.program.PID, t.program.Start}
	program, inStore := l.name(t.program.Executable)
	if v := visits[p]; v != nil {
		if v.process != p && !inStore || v.executable == t.program.Executable {
			return v
		}
		if v.process == p {
			l.keep(v) // it runs another program now
			l.end(visits, func(*visit) bool { return false })
		}
	} else {
		// A later process with the same id may be a new run of the program.
		l.end(visits, func(v *visit) bool { return v.pid == p.pid || v.program == program && !l.o.Alive(v.pid, v.start) })
	}
	if len(visits) >= maxWatched {
		return nil
	}
	if !inStore {
		for q, v := range visits {
			if q.pid == t.program.Parent && q.start <= p.start {
				visits[p] = v
				return v
			}
		}
	}
	v := &visit{
		process: p, executable: t.program.Executable, program: program,
		since: t.time, seen: map[store.Path]bool{},
	}
	visits[p] = v
	return v
}

// name is what a program is called in trails.
func (l *Learner) name(executable string) (program string, inStore bool) {
	p, inside, err := l.o.Dir.Split(executable)
	if err != nil {
		return executable, false
	}
	return p.Name() + inside, true
}

// follow looks for a trail that leads over the path, and has what comes after it
// made.
func (l *Learner) follow(v *visit, t touch) {
	trails, err := l.o.Store.Trails(v.program)
	if err != nil {
		l.failed(err)
		return
	}
	at := slices.IndexFunc(trails, func(r Trail) bool { return r.has(t.path) })
	if at < 0 && len(v.touched) == 1 {
		at = slices.IndexFunc(trails, func(r Trail) bool { return r.First == t.path.Name() })
	}
	if at < 0 {
		return
	}
	v.trail = trails[at]
	for _, s := range v.trail.Steps {
		if v.seen[s.Path] || s.fade(t.time) < minWeight {
			continue
		}
		makeable, valid, err := l.o.Store.Makeable(s.Path)
		if err != nil {
			l.failed(err)
		} else if makeable && !valid {
			v.ahead = append(v.ahead, s.Path)
		}
	}
	if len(v.ahead) > 0 {
		ahead := slices.Clone(v.ahead)
		// A failure is told to whoever asks for the path.
		l.wg.Go(func() { _ = l.o.Realiser.Realise(l.ctx, ahead) })
	}
}

// keep learns from a visit that is over.
func (l *Learner) keep(v *visit) {
	v.kept = true
	if len(v.touched) > MaxPaths {
		return
	}
	var steps []store.Path
	for _, p := range v.touched {
		makeable, _, err := l.o.Store.Makeable(p)
		if err != nil {
			l.failed(err)
			return
		}
		if makeable {
			steps = append(steps, p)
		}
	}
	if len(v.trail.Steps) == 0 {
		if len(steps) < 2 {
			return // nothing comes after anything
		}
		v.trail = Trail{Program: v.program, First: v.touched[0].Name()}
	}
	missed := map[store.Path]bool{}
	for _, p := range v.ahead {
		missed[p] = !v.seen[p]
	}
	v.trail.learn(v.since, steps, missed)
	if err := l.o.Store.SetTrail(v.trail); err != nil {
		l.failed(err)
	}
}

func (l *Learner) failed(err error) {
	if l.o.Failed != nil {
		l.o.Failed(err)
	}
}
