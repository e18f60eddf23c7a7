package normaliser

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/substitute"
)

const dir = store.Dir("/s")

// path makes a store path of a short name.
func path(name string) store.Path {
	p, err := store.TextPath(dir, name, []byte(name), nil)
	if err != nil {
		panic(err)
	}
	return p
}

// world is a store, a builder and a substituter in memory. Builds take virtual
// time. Derivations are called by short names: "a" has the derivation a.drv and
// the output a.
type world struct {
	mu       sync.Mutex
	exprs    map[store.Path]storeexpr.Expr
	known    map[store.Path][2]string // output → drv, output name
	valid    map[store.Path]store.Info
	arrived  map[store.Path]store.Info // being registered
	used     map[*fakeInputs]bool      // that are not released
	succ     map[store.Path]store.Path
	subs     map[store.Path][]substitute.Substitute
	failures map[store.Path]*store.Failure
	expected map[store.Path]time.Duration
	locks    map[store.Path]chan struct{}
	kinds    map[store.Path]store.Kind

	takes         map[string]time.Duration // by name; default one second
	fails         map[string]bool
	mistaken      map[string]store.Path // what a fixed output is that is not what was promised
	hashes        map[string]string     // NAR contents of a rebuilt output
	unreachable   bool
	quick         bool          // builds take no time
	hold          chan struct{} // that no build ends before, if there is one
	stubborn      time.Duration // that a cancelled build takes to end
	onBuilt       func(name string)
	slow          map[string]time.Duration // expressions that take time to read
	setBatches    int
	patient       map[string]bool // by name, when it was registered
	transaction   time.Duration   // that failures are written in
	register      time.Duration   // that it takes to register an outcome
	unregistrable map[string]bool // of which outcomes that fails
	abnormal      map[string]bool // that Normalised fails for
	normalising   chan struct{}   // that Normalised waits for, if there is one
	registered    chan struct{}   // closed when the last registration that began has ended
	jobs          map[string]builder.Job

	log       struct{ prepared, begun, relayed, built, cancelled, read []string } // names in order
	held      []*held
	noRelay   bool // builders that end leave their places empty
	now, most int  // builds running
	released  int
	lookups   int
}

func newWorld() *world {
	return &world{
		exprs: map[store.Path]storeexpr.Expr{}, known: map[store.Path][2]string{},
		valid: map[store.Path]store.Info{}, arrived: map[store.Path]store.Info{}, used: map[*fakeInputs]bool{}, unregistrable: map[string]bool{}, succ: map[store.Path]store.Path{},
		subs: map[store.Path][]substitute.Substitute{}, failures: map[store.Path]*store.Failure{},
		expected: map[store.Path]time.Duration{}, locks: map[store.Path]chan struct{}{},
		kinds: map[store.Path]store.Kind{}, takes: map[string]time.Duration{},
		fails: map[string]bool{}, mistaken: map[string]store.Path{}, hashes: map[string]string{}, patient: map[string]bool{}, jobs: map[string]builder.Job{}, slow: map[string]time.Duration{},
	}
}

// drv adds a derivation of today with the output "out" that needs the "out" of
// others.
func (w *world) drv(name string, inputs ...string) store.Path {
	return w.drvOutputs(name, []string{"out"}, inputs...)
}

func outPath(name, output string) store.Path {
	if output == "out" {
		return path(name)
	}
	return path(name + "-" + output)
}

func (w *world) drvOutputs(name string, outputs []string, inputs ...string) store.Path {
	d := &storeexpr.Derivation{Platform: "p", Builder: "/b"}
	for _, o := range outputs {
		d.Outputs = append(d.Outputs, storeexpr.Output{Name: o, Path: outPath(name, o)})
		w.known[outPath(name, o)] = [2]string{string(path(name + ".drv")), o}
	}
	for _, in := range inputs {
		base, out, ok := strings.Cut(in, "!")
		if !ok {
			out = "out"
		}
		d.Inputs = append(d.Inputs, storeexpr.Input{Path: path(base + ".drv"), Outputs: []string{out}})
	}
	slices.SortFunc(d.Inputs, func(a, b storeexpr.Input) int { return cmp.Compare(a.Path, b.Path) })
	p := path(name + ".drv")
	w.exprs[p] = d
	return p
}

// old adds a derivation of 2004 that makes the outputs.
func (w *world) old(name string, outputs []string, inputs ...store.Path) store.Path {
	d := &storeexpr.Derivation{Form: storeexpr.Form2004, Platform: "p", Builder: "/b"}
	p := path(name + ".store")
	for _, o := range outputs {
		d.Outputs = append(d.Outputs, storeexpr.Output{Path: path(o)})
		if _, ok := w.known[path(o)]; !ok {
			w.known[path(o)] = [2]string{string(p), ""}
		}
	}
	for _, in := range inputs {
		d.Inputs = append(d.Inputs, storeexpr.Input{Path: in})
	}
	w.exprs[p] = d
	return p
}

// closure adds a closure of elements without references.
func (w *world) closure(name string, elements ...string) store.Path {
	c := &storeexpr.Closure{}
	for _, e := range elements {
		c.Roots = append(c.Roots, path(e))
		c.Elements = append(c.Elements, storeexpr.Element{Path: path(e)})
	}
	p := path(name + ".store")
	w.exprs[p] = c
	return p
}

// twin adds a derivation that makes what the derivation of another name makes.
func (w *world) twin(name, of string, inputs ...string) store.Path {
	p := w.drv(name, inputs...)
	d, _ := w.derivation(p)
	other, _ := w.derivation(path(of + ".drv"))
	d.Outputs = slices.Clone(other.Outputs)
	return p
}

func (w *world) substitute(p store.Path, exprs ...store.Path) {
	for _, e := range exprs {
		w.subs[p] = append(w.subs[p], substitute.Substitute{Expr: e})
	}
}

func (w *world) makeValid(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range names {
		w.valid[path(n)] = store.Info{Path: path(n)}
	}
}

func (w *world) isValid(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.valid[path(name)]
	return ok
}

func (w *world) Expr(p store.Path) (storeexpr.Expr, error) {
	w.mu.Lock()
	slow := w.slow[short(p)]
	w.log.read = append(w.log.read, short(p))
	w.mu.Unlock()
	time.Sleep(slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.exprs[p]
	if !ok {
		return nil, fmt.Errorf("read %s: %w", p, store.ErrNotValid)
	}
	if e == nil {
		return nil, fmt.Errorf("read %s: %w", p, store.ErrBadExpr)
	}
	return e, nil
}

func (w *world) derivation(p store.Path) (*storeexpr.Derivation, bool) {
	d, ok := w.exprs[p].(*storeexpr.Derivation)
	return d, ok
}

func (w *world) Known(p store.Path) (store.Path, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.known[p]
	if !ok {
		return "", "", fmt.Errorf("%s: %w", p, store.ErrUnknown)
	}
	return store.Path(k[0]), k[1], nil
}

func (w *world) Kinds(outs []store.Path) (map[store.Path]store.Kind, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kinds := map[store.Path]store.Kind{}
	for _, o := range outs {
		if k, ok := w.kinds[o]; ok {
			kinds[o] = k
		}
	}
	return kinds, nil
}

func (w *world) Valid(p store.Path) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.valid[p]
	return ok, nil
}

func (w *world) Info(p store.Path) (store.Info, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, ok := w.valid[p]
	if !ok {
		return i, fmt.Errorf("%s: %w", p, store.ErrNotValid)
	}
	return i, nil
}

func (w *world) Inputs(_ store.Path, paths []store.Path) (Inputs, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[store.Path]store.Info{}
	todo := slices.Clone(paths)
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		if _, ok := found[p]; ok {
			continue
		}
		i, ok := w.valid[p]
		if !ok {
			i, ok = w.arrived[p]
		}
		if !ok {
			return nil, fmt.Errorf("%s: %w", p, store.ErrNotValid)
		}
		found[p] = i
		todo = append(todo, i.References...)
	}
	in := &fakeInputs{w: w, infos: slices.SortedFunc(maps.Values(found), func(a, b store.Info) int { return cmp.Compare(a.Path, b.Path) })}
	w.used[in] = true
	return in, nil
}

// fakeInputs are inputs that the world knows to be used.
type fakeInputs struct {
	w     *world
	infos []store.Info
	err   error
}

func (in *fakeInputs) All() ([]store.Info, uint64) { return in.infos, 0 }

func (in *fakeInputs) Err() error {
	in.w.mu.Lock()
	defer in.w.mu.Unlock()
	return in.err
}

func (in *fakeInputs) Release() {
	in.w.mu.Lock()
	defer in.w.mu.Unlock()
	if !in.w.used[in] {
		panic("inputs are released that are not used")
	}
	delete(in.w.used, in)
}

// spoil replaces a path under those who use it.
func (w *world) spoil(p store.Path, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for in := range w.used {
		if slices.ContainsFunc(in.infos, func(i store.Info) bool { return i.Path == p }) {
			in.err = err
		}
	}
}

func (w *world) Realised(drv store.Path) ([]store.Path, bool, error) {
	d, ok := w.derivation(drv)
	if _, has, _ := w.Successor(drv); !ok || !has || d.Form == storeexpr.Form2004 {
		return nil, false, nil
	}
	var outs []store.Path
	for _, o := range d.Outputs {
		if valid, _ := w.Valid(o.Path); !valid {
			return nil, false, nil
		}
		outs = append(outs, o.Path)
	}
	return outs, true, nil
}

func (w *world) Successor(p store.Path) (store.Path, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.succ[p]
	return s, ok, nil
}

func (w *world) Lock(ctx context.Context, paths []store.Path, waits func()) (func(), error) {
	waits = sync.OnceFunc(waits)
	released := make(chan struct{})
	var mine []store.Path
	unlock := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range mine {
			delete(w.locks, p)
		}
		close(released)
	}
	for _, p := range slices.Sorted(slices.Values(paths)) {
		for {
			w.mu.Lock()
			held := w.locks[p]
			if held == nil || isClosed(held) {
				w.locks[p] = released
				mine = append(mine, p)
				w.mu.Unlock()
				break
			}
			w.mu.Unlock()
			waits()
			select {
			case <-held:
			case <-ctx.Done():
				unlock()
				return nil, ctx.Err()
			}
		}
	}
	return unlock, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (w *world) Register(ctx context.Context, b Built) error {
	drv, r := b.Drv, b.Result
	if err := b.Inputs.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	for _, o := range r.Outputs {
		w.arrived[o.Info.Path] = o.Info
	}
	before, after := w.registered, make(chan struct{})
	w.registered = after
	defer close(after)
	w.mu.Unlock()
	b.InPlace()
	time.Sleep(w.register)
	if before != nil {
		<-before
	}
	b.Synced()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range r.Outputs {
		delete(w.arrived, o.Info.Path)
	}
	if w.unregistrable[short(drv)] {
		return errors.New("the disk is full")
	}
	for _, in := range b.Derivation.Inputs {
		d, ok := w.derivation(in.Path)
		if !ok || len(in.Outputs) == 0 {
			continue
		}
		outs, err := wantedOutputs(in.Path, d, wants{names: in.Outputs})
		if err != nil {
			return err
		}
		for _, out := range outs {
			if _, ok := w.valid[out]; !ok {
				return fmt.Errorf("%s: %w", out, store.ErrNotValid)
			}
		}
	}
	delete(w.failures, drv)
	w.patient[short(drv)] = b.Patient()
	for _, o := range r.Outputs {
		if _, ok := w.valid[o.Info.Path]; !ok {
			w.valid[o.Info.Path] = o.Info
		}
	}
	w.succ[drv] = "closure"
	if w.onBuilt != nil {
		w.onBuilt(short(drv))
	}
	return nil
}

func (w *world) RegisterContent(ctx context.Context, made builder.Output, inputs Inputs) error {
	time.Sleep(w.register)
	if err := cmp.Or(ctx.Err(), inputs.Err()); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if in, ok := inputs.(*fakeInputs); !ok || !w.used[in] {
		return errors.New("its inputs were released")
	}
	if w.unregistrable[made.Info.Path.Name()] {
		return errors.New("the disk is full")
	}
	w.valid[made.Info.Path] = made.Info
	return nil
}

func (w *world) Hurry() {}

func (w *world) Normalised(ctx context.Context, drv store.Path) error {
	if w.normalising != nil {
		select {
		case <-w.normalising:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.abnormal[short(drv)] {
		return errors.New("the disk is full")
	}
	w.succ[drv] = "closure"
	return nil
}

func (w *world) Expected(drv store.Path) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.expected[drv]
	return d, ok
}

func (w *world) SetFailures(ctx context.Context, fs []*store.Failure) error {
	time.Sleep(w.transaction)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setBatches++
	for _, f := range fs {
		w.failures[f.Chain[0]] = f
	}
	return nil
}

func (w *world) Failure(p store.Path) (*store.Failure, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failures[p], nil
}

func (w *world) ClearFailures(ctx context.Context, goals ...store.Path) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range goals {
		delete(w.failures, g)
	}
	return nil
}

func (w *world) Substitutes(ctx context.Context, p store.Path) ([]substitute.Substitute, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookups++
	if w.unreachable {
		return nil, fmt.Errorf("look for substitutes of %s: %w", p, store.ErrUnreachable)
	}
	return w.subs[p], nil
}

// prepared, begun, built and cancelled are the names of builds, read those of
// expressions, in order.
func (w *world) prepared() []string  { return w.names(&w.log.prepared) }
func (w *world) relayed() []string   { return w.names(&w.log.relayed) }
func (w *world) begun() []string     { return w.names(&w.log.begun) }
func (w *world) built() []string     { return w.names(&w.log.built) }
func (w *world) cancelled() []string { return w.names(&w.log.cancelled) }
func (w *world) read() []string      { return w.names(&w.log.read) }

func (w *world) names(of *[]string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(*of)
}

// running is how many builders run.
func (w *world) running() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// peak is how many builders ran at a time.
func (w *world) peak() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

// short is the name of a derivation or path without its suffix.
func short(p store.Path) string {
	return strings.TrimSuffix(strings.TrimSuffix(p.Name(), ".drv"), ".store")
}

// held is a build that waits for its turn, as a spawner has it.
type held struct {
	job   builder.Job
	relay builder.Relay
	start chan struct{} // closed when it takes the place of another
}

// awaitTurn reports whether j may start; if not, ctx has ended.
func (w *world) awaitTurn(ctx context.Context, j builder.Job) bool {
	if j.Turn == nil {
		return true
	}
	h := &held{job: j, start: make(chan struct{})}
	w.mu.Lock()
	w.held = append(w.held, h)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.held = slices.DeleteFunc(w.held, func(o *held) bool { return o == h })
	}()
	for {
		select {
		case <-j.Turn.Granted:
			return true
		case <-h.start:
			return true
		case r := <-j.Turn.Relay:
			w.mu.Lock()
			h.relay = r
			w.mu.Unlock()
		case <-ctx.Done():
			select {
			case <-h.start: // it was quicker
				return true
			default:
				return false
			}
		}
	}
}

// relay starts what takes the place of j, which has ended.
func (w *world) relay(j builder.Job) store.Path {
	w.mu.Lock()
	defer w.mu.Unlock()
	best := -1
	for i, h := range w.held {
		if h.relay.Open && h.job.Pool == j.Pool && h.relay.Rank > j.Heir && (best < 0 || h.relay.Rank > w.held[best].relay.Rank) {
			best = i
		}
	}
	if best < 0 || w.noRelay {
		return ""
	}
	next := w.held[best]
	w.held = slices.Delete(w.held, best, best+1)
	w.log.relayed = append(w.log.relayed, short(next.job.Drv))
	close(next.start)
	return next.job.Drv
}

func (w *world) Build(ctx context.Context, j builder.Job) (*builder.Result, error) {
	name := short(j.Drv)
	w.mu.Lock()
	w.log.prepared = append(w.log.prepared, name)
	w.mu.Unlock()
	if !w.awaitTurn(ctx, j) {
		return nil, fmt.Errorf("build %s: %w", j.Drv, store.ErrCancelled)
	}
	w.mu.Lock()
	w.jobs[name] = j
	w.log.begun = append(w.log.begun, name)
	w.now++
	w.most = max(w.most, w.now)
	takes, ok := w.takes[name]
	fails := w.fails[name]
	content := w.hashes[name]
	w.mu.Unlock()
	ended := sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now--
	})
	defer ended()
	if !ok {
		takes = time.Second
	}
	if j.Turn != nil {
		// It may run already, but for everybody it does only when that was heard.
		select {
		case <-j.Turn.Granted:
		case <-ctx.Done():
			return nil, fmt.Errorf("build %s: %w", j.Drv, store.ErrCancelled)
		}
	}
	j.Phase(event.PhaseBuild)
	j.Log([]byte("building " + name))
	started := time.Now()
	if w.hold != nil {
		select {
		case <-w.hold:
		case <-ctx.Done():
			return nil, fmt.Errorf("build %s: %w", j.Drv, store.ErrCancelled)
		}
	}
	var late <-chan time.Time
	if j.Limits.Timeout > 0 {
		late = time.After(j.Limits.Timeout)
	}
	if !w.quick {
		select {
		case <-late:
			return nil, &store.Failure{Path: j.Drv, Cause: store.CauseTimeout, Message: "timed out", Builder: "/b", Time: time.Now()}
		case <-time.After(takes):
		case <-ctx.Done():
			time.Sleep(w.stubborn)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.log.cancelled = append(w.log.cancelled, name)
			return nil, fmt.Errorf("build %s: %w", j.Drv, store.ErrCancelled)
		}
	}
	if fails {
		f := &store.Failure{
			Path: j.Drv, Cause: store.CauseBuilder, Message: "builder failed with exit status 7",
			Status: 7, Builder: "/b", Log: []string{"oh no"}, Time: time.Now(),
		}
		if j.KeepFailed() {
			f.Kept = "/kept/" + name
		}
		return nil, f
	}
	if made, ok := w.mistaken[name]; ok {
		message := "hash mismatch"
		if j.Mismatch != nil {
			message = fmt.Sprintf("%s, kept: %v", message, j.Mismatch(builder.Output{Info: store.Info{Path: made}}))
		}
		return nil, &store.Failure{Path: j.Drv, Cause: store.CauseHash, Message: message, Builder: "/b", Time: time.Now()}
	}
	ended()
	if next := w.relay(j); next != "" {
		j.Relayed(next)
	}
	res := &builder.Result{Started: started, Duration: time.Since(started)}
	for _, o := range j.Derivation.Outputs {
		info := store.Info{Path: o.Path, NarHash: store.HashOf(store.SHA256, []byte(string(o.Path)+content)), Deriver: j.Drv}
		res.Outputs = append(res.Outputs, builder.Output{Name: o.Name, Info: info, Scratch: "/scratch/" + name + "/" + o.Name})
	}
	w.mu.Lock()
	w.log.built = append(w.log.built, name)
	w.mu.Unlock()
	res.Release = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.released++
	}
	res.Keep = func() (string, error) { return "/kept/" + name, nil }
	return res, nil
}

// start makes a normaliser of the world, which the end of the test closes.
func (w *world) start(t testing.TB, jobs int) *Normaliser {
	return w.startWith(t, Options{Jobs: jobs})
}

func (w *world) startWith(t testing.TB, o Options) *Normaliser {
	o.Store, o.Builder, o.Substituter = w, w, w
	n := New(o)
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.used) > 0 {
			t.Errorf("the inputs of %d builds are never released", len(w.used))
		}
	})
	return n
}

func paths(names ...string) []store.Path {
	ps := make([]store.Path, len(names))
	for i, n := range names {
		ps[i] = path(n)
	}
	return ps
}

func names(ps []store.Path) []string {
	ns := make([]string, len(ps))
	for i, p := range ps {
		ns[i] = p.Name()
	}
	return ns
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
