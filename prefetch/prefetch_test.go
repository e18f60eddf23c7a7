package prefetch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

const dir = store.Dir("/s")

func path(name string) store.Path {
	return store.Path(string(dir) + "/" + fmt.Sprintf("%032x", len(name)) + "-" + name)
}

func paths(names ...string) []store.Path {
	ps := make([]store.Path, len(names))
	for i, n := range names {
		ps[i] = path(n)
	}
	return ps
}

// world is a store, in which everything can be made but sources, and processes.
type world struct {
	mu       sync.Mutex
	valid    map[store.Path]bool
	trails   map[string]Trail
	asked    [][]string // what was prefetched, by name
	dead     map[int]bool
	held     chan struct{}
	sources  map[store.Path]bool
	recalled int
}

func newWorld() *world {
	return &world{valid: map[store.Path]bool{}, trails: map[string]Trail{}, dead: map[int]bool{}, sources: map[store.Path]bool{}}
}

func (w *world) Makeable(p store.Path) (makeable, valid bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.sources[p], w.valid[p], nil
}

func (w *world) Trails(program string) ([]Trail, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recalled++
	var all []Trail
	for _, k := range slices.Sorted(maps.Keys(w.trails)) {
		if t := w.trails[k]; t.Program == program {
			t.Steps = slices.Clone(t.Steps)
			all = append(all, t)
		}
	}
	return all, nil
}

func (w *world) SetTrail(t Trail) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trails[t.Program+" "+t.First] = t
	return nil
}

func (w *world) Realise(ctx context.Context, ps []store.Path) error {
	w.mu.Lock()
	var names []string
	for _, p := range ps {
		names = append(names, p.Name())
	}
	w.asked = append(w.asked, names)
	w.mu.Unlock()
	if w.held != nil {
		select {
		case <-w.held:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// steps are the trails by "PROGRAM FIRST", as names.
func (w *world) steps() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]string{}
	for k, t := range w.trails {
		var names []string
		for _, s := range t.Steps {
			names = append(names, s.Path.Name())
		}
		all[k] = strings.Join(names, " ")
	}
	return all
}

func (w *world) prefetched() [][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func (w *world) learner() *Learner {
	return New(Options{Dir: dir, Store: w, Realiser: w, Alive: func(pid int, _ uint64) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.dead[pid]
	}})
}

func (w *world) kill(pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[pid] = true
}

func (l *Learner) all(p Program, names ...string) {
	for _, n := range names {
		l.Touched(p, path(n))
	}
	synctest.Wait()
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestLearnAndPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.sources[path("src")] = true
		l := w.learner()
		defer l.Close()
		prog := Program{PID: 1, Start: 10, Executable: string(path("prog-1")) + "/bin/prog"}
		l.all(prog, "a", "b", "src", "c", "b")
		expect(t, "at the first time", w.prefetched(), [][]string{})
		w.kill(1)
		time.Sleep(2 * time.Second)
		expect(t, "learned", w.steps(), map[string]string{"prog-1/bin/prog a": "a b c"})

		// Again, and what is there is not asked for.
		w.valid[path("b")] = true
		prog.PID = 2
		l.all(prog, "a")
		expect(t, "prefetched", w.prefetched(), [][]string{{"c"}})
		// No matter how it goes on, it is asked for once a run.
		l.all(prog, "b", "c", "d")
		expect(t, "prefetched", w.prefetched(), [][]string{{"c"}})
		w.kill(2)

		// It need not begin with the same: what the kernel remembers is not looked
		// up.
		w.valid = map[store.Path]bool{}
		prog.PID = 3
		l.all(prog, "b")
		expect(t, "prefetched", w.prefetched()[1:], [][]string{{"a", "c", "d"}})
		// Another version of the first path is as good.
		prog.PID = 4
		other := store.Path(string(dir) + "/" + strings.Repeat("z", 32) + "-a")
		l.Touched(prog, other)
		synctest.Wait()
		expect(t, "prefetched", w.prefetched()[2:], [][]string{{"a", "b", "c", "d"}})
		// Another program is not.
		l.all(Program{PID: 5, Start: 10, Executable: "/bin/prog"}, "a")
		expect(t, "prefetched", len(w.prefetched()), 3)
	})
}

// What programs outside of the store have others do is theirs; a program of the
// store is one by itself; and so is what a process runs later.
func TestWhoseTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.learner()
		l.all(Program{PID: 1, Start: 10, Executable: "/bin/make"}, "cc")
		l.all(Program{PID: 2, Start: 11, Parent: 1, Executable: "/bin/cat"}, "x")
		l.all(Program{PID: 3, Start: 12, Parent: 2, Executable: "/bin/cat"}, "y")
		l.all(Program{PID: 4, Start: 12, Parent: 1, Executable: string(path("cc")) + "/bin/cc"}, "lib", "h")
		// Its parent's id is an older process's.
		l.all(Program{PID: 5, Start: 5, Parent: 1, Executable: "/bin/ls"}, "p", "q")
		// It calls another program in its place.
		l.all(Program{PID: 5, Start: 5, Parent: 1, Executable: "/bin/tar"}, "r", "s")
		// The id is used again.
		l.all(Program{PID: 5, Start: 50, Parent: 9, Executable: "/bin/tar"}, "t", "u")
		l.Close()
		expect(t, "learned", w.steps(), map[string]string{
			"/bin/make cc": "cc x y", "cc/bin/cc lib": "lib h", "/bin/ls p": "p q", "/bin/tar r": "r s", "/bin/tar t": "t u",
		})
	})
}

// A visitor of everything is no user of anything, and one touch leads nowhere.
func TestNothingToLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.learner()
		for i := range MaxPaths + 1 {
			l.all(Program{PID: 1, Start: 1, Executable: "/bin/find"}, fmt.Sprint("p", i))
		}
		l.all(Program{PID: 2, Start: 1, Executable: "/bin/true"}, "p1")
		if w.recalled > attempts+1 {
			t.Errorf("it looked for trails %d times", w.recalled)
		}
		l.Close()
		expect(t, "learned", w.steps(), map[string]string{})
	})
}

// A program that runs for long is watched for a while; and what was learned of
// it is not lost when the learner ends in between.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.learner()
		d := Program{PID: 1, Start: 1, Executable: "/bin/daemon"}
		l.all(d, "a", "b")
		time.Sleep(Window + 2*time.Second)
		expect(t, "learned", w.steps(), map[string]string{"/bin/daemon a": "a b"})
		l.all(d, "x", "y")
		l.Close()
		expect(t, "learned", w.steps(), map[string]string{"/bin/daemon a": "a b", "/bin/daemon x": "x y"})
	})
}

// Close ends what is being prefetched.
func TestCloseCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.held = make(chan struct{})
		w.trails["x"] = Trail{Program: "/bin/x", First: "a", Steps: []Step{{path("a"), 1, time.Now().Unix()}, {path("b"), 1, time.Now().Unix()}}}
		l := w.learner()
		l.all(Program{PID: 1, Start: 1, Executable: "/bin/x"}, "a")
		expect(t, "prefetched", w.prefetched(), [][]string{{"b"}})
		l.Close()
	})
}

func TestForgetting(t *testing.T) {
	now := time.Unix(1e9, 0)
	names := func(tr Trail) string {
		var out []string
		for _, s := range tr.Steps {
			out = append(out, s.Path.Name())
		}
		return strings.Join(out, " ")
	}
	var tr Trail
	for range 20 {
		tr.learn(now, paths("often", "b"), nil)
	}
	tr.learn(now, paths("once"), nil)
	if w := tr.Steps[0].Weight; w != maxWeight {
		t.Errorf("weight %v", w)
	}
	// With time, what was touched once goes before what was touched often.
	now = now.Add(3 * halfLife)
	tr.learn(now, paths("b"), nil)
	expect(t, "after three half-lives", names(tr), "often b")
	// What was made in vain goes soon, but not at once.
	once := Trail{}
	once.learn(now, paths("a", "b"), nil)
	once.learn(now, paths("a"), map[store.Path]bool{path("b"): true})
	expect(t, "when it was made in vain once", names(once), "a b")
	for range 3 {
		tr.learn(now, paths("b"), map[store.Path]bool{path("often"): true})
	}
	expect(t, "when it was made in vain", names(tr), "b")
	// There is an end to what is kept: the lightest go, of the same weight the
	// last.
	tr = Trail{}
	tr.learn(now, paths("heavy"), nil)
	for i := range 2 * MaxPaths {
		tr.learn(now, paths(fmt.Sprint("p", i)), nil)
	}
	tr.learn(now, paths("heavy", "last"), nil)
	if len(tr.Steps) != MaxPaths || tr.Steps[0].Path != path("heavy") {
		t.Errorf("%d steps, first %s", len(tr.Steps), tr.Steps[0].Path)
	}
}
