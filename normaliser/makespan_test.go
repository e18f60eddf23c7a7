package normaliser

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"storefs/store"
)

// timed makes a random graph of n derivations with durations as builds have
// them, a few of them long, and returns what is asked for, the longest path and
// the work in it.
func (w *world) timed(n int, seed uint64) (top store.Path, longest, work time.Duration) {
	r := rand.New(rand.NewPCG(seed, 1))
	depth := make([]time.Duration, n)
	used := make([]bool, n)
	name := func(i int) string { return fmt.Sprint("n", i) }
	for i := range n {
		var inputs []string
		for range min(i, r.IntN(4)) {
			in := max(0, i-1-int(r.ExpFloat64()*float64(n)/20))
			used[in] = true
			depth[i] = max(depth[i], depth[in])
			inputs = append(inputs, name(in))
		}
		slices.Sort(inputs)
		w.drv(name(i), slices.Compact(inputs)...)
		takes := time.Duration(float64(time.Second) * (0.1 + r.ExpFloat64()*r.ExpFloat64()))
		w.takes[name(i)] = takes
		depth[i] += takes
		longest = max(longest, depth[i])
		work += takes
	}
	var tops []string
	for i, u := range used {
		if !u {
			tops = append(tops, name(i))
		}
	}
	w.takes["top"] = 0
	return w.drv("top", tops...), longest, work
}

// makespan is how long a graph takes in so many slots, in proportion to the
// least that is possible. A part of the durations is recorded.
func makespan(t *testing.T, slots int, seed uint64, recorded float64) float64 {
	var ratio float64
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		top, longest, work := w.timed(300, seed)
		r := rand.New(rand.NewPCG(seed, 2))
		for name, d := range w.takes {
			if r.Float64() < recorded {
				w.expected[path(name+".drv")] = d
			}
		}
		n := w.start(t, slots)
		begin := time.Now()
		if _, err := n.Realise(t.Context(), Request{Targets: []store.Path{top}}); err != nil {
			t.Fatal(err)
		}
		ratio = time.Since(begin).Seconds() / max(longest, work/time.Duration(slots)).Seconds()
	})
	return ratio
}

// With recorded durations the order is as good as any, within two per cent.
func TestMakespan(t *testing.T) {
	const seeds = 15
	for _, slots := range []int{2, 4, 8, 16, 32, 64} {
		row := fmt.Sprintf("%2d slots:", slots)
		for _, recorded := range []float64{1, 0.75, 0} {
			var ratios []float64
			for seed := range uint64(seeds) {
				ratios = append(ratios, makespan(t, slots, seed, recorded))
			}
			slices.Sort(ratios)
			median := ratios[seeds/2]
			row += fmt.Sprintf("  %3.0f%% recorded: %.3f (worst %.3f)", recorded*100, median, ratios[seeds-1])
			if recorded == 1 && median > 1.02 {
				t.Errorf("%d slots: median %.3f of the least that is possible", slots, median)
			}
		}
		t.Log(row)
	}
}
