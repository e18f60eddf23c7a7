package normaliser

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"storefs/event"
	"storefs/store"
)

// shapes makes graphs of n derivations below the target that is returned.
var shapes = map[string]func(w *world, n int) store.Path{
	"wide": func(w *world, n int) store.Path {
		var all []string
		for i := range n - 1 {
			all = append(all, fmt.Sprint("n", i))
			w.drv(all[i])
		}
		return w.drv("top", all...)
	},
	"chain": func(w *world, n int) store.Path {
		p := w.drv("n0")
		for i := 1; i < n; i++ {
			p = w.drv(fmt.Sprint("n", i), fmt.Sprint("n", i-1))
		}
		return p
	},
	"layered": func(w *world, n int) store.Path {
		const width = 100
		var last []string
		for i := 0; i < n-1; i += width {
			var layer []string
			for j := range min(width, n-1-i) {
				name := fmt.Sprint("n", i+j)
				var inputs []string
				for k := range min(3, len(last)) {
					inputs = append(inputs, last[(j+k*7)%len(last)])
				}
				slices.Sort(inputs)
				w.drv(name, slices.Compact(inputs)...)
				layer = append(layer, name)
			}
			last = layer
		}
		return w.drv("top", last...)
	},
	"random": func(w *world, n int) store.Path {
		r := rand.New(rand.NewPCG(1, 2))
		used := make([]bool, n)
		for i := range n - 1 {
			var inputs []string
			for range min(i, 3) {
				in := r.IntN(i)
				used[in] = true
				inputs = append(inputs, fmt.Sprint("n", in))
			}
			slices.Sort(inputs)
			w.drv(fmt.Sprint("n", i), slices.Compact(inputs)...)
		}
		var tops []string
		for i := range n - 1 {
			if !used[i] {
				tops = append(tops, fmt.Sprint("n", i))
			}
		}
		return w.drv("top", tops...)
	},
}

// heapInUse is what is in use after a collection.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The bounds are generous: quadratic work would be off by a factor of 1,000.
func TestManyGoals(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			target := shape(w, many)
			w.quick = true
			hold := make(chan struct{})
			w.hold = hold
			n := w.start(t, 2)
			before := heapInUse()
			got := make(chan error)
			begin := time.Now()
			go func() {
				_, err := n.Realise(t.Context(), Request{Targets: []store.Path{target}})
				got <- err
			}()
			for n.Status().Requests == 0 {
				time.Sleep(time.Millisecond)
			}
			planned := time.Since(begin)
			s := n.Status()
			if s.Waiting+s.Buildable+len(s.Running) != many {
				t.Errorf("status %+v, want %d goals", s, many)
			}
			used := int64(heapInUse()) - int64(before)
			if used > 200<<20 {
				t.Errorf("%d goals take %d MB", many, used>>20)
			}
			begin = time.Now()
			close(hold)
			if err := <-got; err != nil {
				t.Fatal(err)
			}
			built := time.Since(begin)
			if len(w.built()) != many {
				t.Errorf("%d built", len(w.built()))
			}
			if total := planned + built; total > 60*time.Second {
				t.Errorf("took %v", total)
			}
			t.Logf("%d MB; planned in %v, run in %v", used>>20, planned, built)
		})
	}
}

// Many callers want one goal each of a graph that is being built.
func TestManyCallers(t *testing.T) {
	w := newWorld()
	const size = many / 50
	shapes["chain"](w, size)
	w.quick = true
	hold := make(chan struct{})
	w.hold = hold
	n := w.start(t, 2)
	got := make(chan error)
	for i := range size {
		go func() {
			_, err := n.Realise(t.Context(), Request{Targets: []store.Path{path(fmt.Sprint("n", i))}, Urgent: true})
			got <- err
		}()
	}
	for n.Status().Requests < size {
		time.Sleep(time.Millisecond)
	}
	close(hold)
	for range size {
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
	if len(w.built()) != size {
		t.Errorf("%d built", len(w.built()))
	}
}

// One who leaves takes everything along that nobody else wants.
func TestManyDropped(t *testing.T) {
	for _, name := range []string{"wide", "chain"} {
		w := newWorld()
		target := shapes[name](w, many/4)
		w.quick = true
		w.hold = make(chan struct{})
		n := w.start(t, 2)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() {
			_, err := n.Realise(ctx, Request{Targets: []store.Path{target}, Orphans: Orphans{Cancel: true}})
			got <- err
		}()
		for n.Status().Requests == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		<-got
		for n.Status().Dropped < many/4 {
			time.Sleep(time.Millisecond)
		}
		if s := n.Status(); s.Waiting+s.Buildable+len(s.Running) != 0 {
			t.Errorf("%s: left over: %+v", name, s)
		}
	}
}

func BenchmarkGoals(b *testing.B) {
	for name, shape := range shapes {
		for _, size := range []int{1000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					w := newWorld()
					target := shape(w, size)
					w.quick = true
					n := w.startWith(b, Options{Jobs: 2, Events: &event.Bus{}})
					b.StartTimer()
					if _, err := n.Realise(b.Context(), Request{Targets: []store.Path{target}}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/goal")
			})
		}
	}
}

// BenchmarkRemaining is how long the graph's goroutine takes to look at a build whose
// goals have nearly all ended, or none of them.
func BenchmarkRemaining(b *testing.B) {
	w := newWorld()
	target := shapes["random"](w, many)
	hold := make(chan struct{})
	defer close(hold)
	w.hold = hold
	n := w.start(b, 2)
	planned := make(chan []store.Path, 1)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go n.Realise(ctx, Request{Targets: []store.Path{target}, Planned: func(goals []store.Path) { planned <- goals }})
	live, ended := map[store.Path]bool{}, map[store.Path]bool{}
	for _, p := range <-planned {
		live[p], ended[p+"-ended"] = true, true
	}
	for name, goals := range map[string]map[store.Path]bool{"live": live, "ended": ended} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				n.Remaining(goals)
			}
		})
	}
}

func BenchmarkNothingToDo(b *testing.B) {
	w := newWorld()
	target := w.drv("a")
	w.makeValid("a")
	n := w.start(b, 2)
	for b.Loop() {
		if _, err := n.Realise(b.Context(), Request{Targets: []store.Path{target}}); err != nil {
			b.Fatal(err)
		}
	}
}
