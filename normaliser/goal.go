package normaliser

import (
	"context"
	"sync/atomic"
	"time"

	"storefs/builder"
	"storefs/store"
	"storefs/substitute"
)

// kind says what a goal is for.
type kind uint8

const (
	kindExpr  kind = iota // a store expression that is to be normalised
	kindPath              // a path that substitutes are to make valid
	kindCheck             // a derivation that is built again and compared
)

// key identifies a goal: whoever needs the same thing shares it.
type key struct {
	kind kind
	path store.Path
}

// mode says what the inputs of a goal are for, and what is done once they have
// ended.
type mode uint8

const (
	modeNone       mode = iota // nothing is to be done
	modeBuild                  // inputs are what the builder needs; then it is built
	modeTry                    // inputs are path goals for its outputs; if one fails, it is planned again as modeBuild
	modeFetch                  // the input is a path goal for its own text; then it is planned
	modeClosure                // inputs are its elements; then it is done
	modeSubstitute             // a path goal: the input is the substitute being tried
	modeLive                   // of nodes only: there was a goal for it when the plan was made
)

// state is where a goal stands.
type state uint8

const (
	// waiting: some input has not ended, or it was made in this very turn.
	waiting state = iota
	// buildable: all inputs have ended well (for path goals: have ended; for what
	// is to be built: they are at least in place), and it is in the ready queue of
	// its pool.
	buildable
	// running: its worker runs, and holds a slot of its pool.
	running
	// locking: its worker waits for a lock that another process holds, and has
	// given its slot back; or it was prepared or locked, and is to end.
	locking
	// locked: its worker holds the lock and waits, in the ready queue, for a
	// slot.
	locked
	// prepared: its worker does what comes before the builder, or has done it, and
	// holds no slot: it waits for one in the ready queue.
	prepared
	// registering: its builder has ended. Its worker scans and registers what was
	// built, and has given its slot back: it waits for the disk, mostly, and the
	// next builder need not.
	registering
	// done, failed, dropped: it has ended; it is not in the graph, holds
	// nothing, and never changes again.
	done
	failed
	dropped
	numStates
)

var stateNames = [numStates]string{"waiting", "buildable", "running", "locking", "locked", "prepared", "registering", "done", "failed", "dropped"}

func (s state) String() string { return stateNames[s] }

func (s state) ended() bool { return s >= done }

// next lists what may follow a state.
var next = [numStates][]state{
	waiting:     {buildable, done, failed, dropped},
	buildable:   {waiting, running, prepared, failed, dropped},
	running:     {waiting, locking, registering, done, failed, dropped},
	locking:     {waiting, locked, done, failed, dropped},
	locked:      {waiting, running, locking, done, failed, dropped},
	prepared:    {waiting, running, locking, done, failed, dropped},
	registering: {waiting, done, failed, dropped},
}

// flags are inherited by the inputs of a goal. They are only ever added to a
// goal, so that handing them down costs each edge a bounded number of visits.
type flags uint64

const (
	flagUrgent    flags = 1 << iota // a caller is blocked in a lookup
	flagKeepGoing                   // a request that keeps going needs it
	flagMain                        // needed otherwise than through a substitute
	flagMayBuild                    // a request that may build needs it, or a substitute does
	flagDemand                      // a request that is not in the background needs it
	flagUser                        // this bit and the following ones each stand for a user who wants it
	// The remaining bits each stand for a request that wants to know its goals.
	flagObserver = flagUser << maxUsers
	flagUsers    = flagObserver - flagUser
)

// origin is what a goal takes from the request that first wanted it.
type origin struct {
	limits builder.Limits
}

// edge is one need. Dead edges stay in the lists of both ends until these are
// cleaned: taking an edge out of a list of 100,000 must not cost a search.
type edge struct {
	from, to *goal // from needs to
	dead     bool
}

// goal is one thing still to be done. Only the goroutine that owns the graph
// touches it.
type goal struct {
	key
	seq    uint64 // order of coming into the graph
	since  uint64 // seq of the oldest goal for whose sake it came
	state  state
	mode   mode
	wants  wants
	flags  flags
	origin *origin

	replan    bool          // its inputs must be decided again before it can go on
	noTry     bool          // its substitutes have failed
	replanned bool          // an input was gone when it was to be built
	doomed    bool          // an input failed; it waits for the others to end
	cancelled bool          // its worker was told to stop
	onPath    bool          // the search for cycles is below it
	started   bool          // Started was published
	halted    chan struct{} // closed at its end, if Cancel was asked for it; else nil

	expected time.Duration // recorded, 0 if nothing is
	cores    int           // slots that its builder takes; 0 is all
	holds    int           // slots that it has, while running
	level    time.Duration // of the longest path from its start to the end of a goal that was asked for

	inputs     []*edge
	unfinished int  // live edges in inputs
	built      int  // those of them whose goals are registering
	inPlace    int  // those of them whose goals are placed
	ripe       bool // it is in graph.ripe
	waiters    []*edge
	live       int // live edges in waiters
	requests   map[*request]struct{}

	relayed  bool  // another one's builder was started at the end of its own
	placed   bool  // its outputs are where they will stay, and are registered before what comes now
	pool     *pool // while buildable, running, locked, or prepared
	idle     bool  // in pool.idle
	prepared bool  // in pool.prepared
	queue    flags // of pool.ready, while queued and not idle
	position int   // in that queue
	payer    int   // the user on whose share it runs, if it is not in the background
	run      *run  // while it has a worker

	substitutes *attempts // of path goals

	outcome      string
	failure      *rootCause
	blame        *goal // the input whose failure doomed it; nil if it failed itself
	depth        int   // number of blames down to the root cause
	failedInputs []*goal
	failedAt     uint64 // seq of the graph when it failed

	mark       uint64 // the last search that saw it
	lastWaiter *goal  // the last goal that was linked to it
}

// rootCause is a failure that is shared by all whom it reaches.
type rootCause struct {
	store.Failure
	told   int  // goals that failed because of it
	halted bool // Cancel is what ended it
}

// attempts is how far a path goal has come with its substitutes.
type attempts struct {
	asked bool
	list  []substitute.Substitute
	next  int
	why   []error // those before next did not yield it
}

// run is the worker of a goal, and what both it and the graph know of it.
type run struct {
	cancel   func()
	since    time.Time          // when it got its slot or, while it has none yet, its worker
	start    chan struct{}      // closed when it has a slot, after prepared; nil if it had one when it began
	waits    bool               // start is not closed
	pool     byte               // see builder.Job
	heir     int64              // likewise, as its builder has it
	outgrown bool               // while it runs: those who wait for it have come to more than that
	strays   bool               // while it runs: its builder is of another pool than its slot
	relays   chan builder.Relay // to the builder of one that waits
	relay    builder.Relay      // the last of them
	freed    time.Time          // when it gave its slot back for good; zero if it has it
	hasty    atomic.Bool        // somebody waits for its registration
	phase    phase              // written by the worker
	resume   chan struct{}      // closed when it has a slot again, after locked
	wanted   chan struct{}      // closed when it is no longer in the background; nil if it is not
	inputs   chan struct{}      // closed when all inputs have ended; nil if they had when it began
}

// awaitInputs waits until all inputs have ended, or ctx has. If one failed, that
// says more than what follows from it; if none did, whoever waits for the goal
// hears of them first.
func (r *run) awaitInputs(ctx context.Context) {
	if r.inputs == nil {
		return
	}
	select {
	case <-r.inputs:
	case <-ctx.Done():
	}
}

// patient reports whether the registration of what was built may wait for others.
func (r *run) patient() bool { return !r.hasty.Load() }

// held is how long it has had its slot.
func (r *run) held() time.Duration {
	switch {
	case r.waits:
		return 0
	case r.freed.IsZero():
		return time.Since(r.since)
	}
	return r.freed.Sub(r.since)
}

// turn is when its builder may start.
func (r *run) turn() *builder.Turn {
	if r.start == nil {
		return nil
	}
	return &builder.Turn{Granted: r.start, Relay: r.relays}
}

// hasBegun reports whether it has, or had, a slot.
func (r *run) hasBegun() bool {
	if r.start == nil {
		return true
	}
	select {
	case <-r.start:
		return true
	default:
		return false
	}
}

// Costs of goals about which nothing is recorded. They only order goals and
// make up estimates.
const (
	defaultBuild      = 5 * time.Second
	defaultSubstitute = 1 * time.Second
)

// cost is how long it is expected to hold its slot.
func (g *goal) cost() time.Duration {
	switch {
	case g.mode == modeClosure:
		return 0
	case g.mode != modeBuild:
		return defaultSubstitute
	case g.expected > 0:
		return g.expected
	}
	return defaultBuild
}

func (g *goal) wanted() bool { return g.live > 0 || len(g.requests) > 0 }

// waits is how many inputs it waits for. A builder needs no more than that its
// inputs are in place: it need not wait for the disk.
func (g *goal) waits() int {
	if g.startsEarly() {
		return g.unfinished - g.inPlace
	}
	return g.unfinished
}

// startsEarly reports whether it may begin before its inputs are registered. What
// will not begin waits until they are, or are not.
func (g *goal) startsEarly() bool {
	return g.kind == kindExpr && g.mode == modeBuild && !g.replan && g.blame == nil
}

// inherited are the flags that its inputs get.
func (g *goal) inherited() flags {
	if g.kind == kindPath {
		return g.flags&^flagMain | flagMayBuild
	}
	return g.flags
}

// severalSlots is how many slots it has, or had, if that is more than one, else 0.
func (g *goal) severalSlots() int {
	if g.holds < 2 {
		return 0
	}
	return g.holds
}

// background reports whether only requests in the background need it.
func (g *goal) background() bool { return g.flags&flagDemand == 0 }

// hasWorker reports whether a worker runs for it.
func (g *goal) hasWorker() bool {
	return g.state >= running && g.state <= registering
}

// queued reports whether it waits for a slot, in a queue of its pool.
func (g *goal) queued() bool {
	return g.state == buildable || g.state == locked || g.state == prepared
}
