package prefetch

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"storefs/store"
)

// Trail is what a program touched, after it began with one path.
type Trail struct {
	// Program is the executable: of a path in the store, its name without the
	// digest and the path inside, so that the next version goes on where this
	// one was.
	Program string `json:"program"`
	// First is the name, without its digest, of the path that it touched first.
	First string `json:"first"`
	Last  int64  `json:"last"` // when it was last followed, seconds since 1970
	Steps []Step `json:"steps"`
}

// Step is one path of a trail; they are in the order in which they were touched.
type Step struct {
	Path   store.Path `json:"path"`
	Weight float64    `json:"weight"` // how often, fading with time
	Last   int64      `json:"last"`   // when Weight was that, seconds since 1970
}

// Check reports what is wrong with a trail from elsewhere.
func (t *Trail) Check(dir store.Dir) error {
	if t.Program == "" || strings.Contains(t.Program+t.First, "\x00") || len(t.Program)+len(t.First) > maxNames {
		return fmt.Errorf("a trail of the program %.100q that begins with %.100q", t.Program, t.First)
	}
	if len(t.Steps) > MaxPaths {
		return fmt.Errorf("the trail of %s has %d steps, %d are the most", t.Program, len(t.Steps), MaxPaths)
	}
	for _, s := range t.Steps {
		if _, err := dir.Parse(string(s.Path)); err != nil {
			return fmt.Errorf("the trail of %s: %w", t.Program, err)
		}
		if !(s.Weight >= 0 && s.Weight <= maxWeight) {
			return fmt.Errorf("the trail of %s: the weight %v", t.Program, s.Weight)
		}
	}
	return nil
}

// fade is the weight of s now.
func (s Step) fade(now time.Time) float64 {
	age := max(now.Sub(time.Unix(s.Last, 0)), 0)
	return s.Weight * math.Exp2(-float64(age)/float64(halfLife))
}

// has reports whether the trail leads over p.
func (t *Trail) has(p store.Path) bool {
	return slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Path == p })
}

// learn takes in what was touched this time, in order, and what was made ahead
// and then not touched.
func (t *Trail) learn(now time.Time, touched []store.Path, missed map[store.Path]bool) {
	t.Last = now.Unix()
	index := make(map[store.Path]int, len(t.Steps))
	for i := range t.Steps {
		s := &t.Steps[i]
		s.Weight, s.Last = s.fade(now), now.Unix()
		if missed[s.Path] {
			// Not by so much that one miss is enough to forget it: a touch goes
			// unseen where the kernel knows the path from before it was deleted.
			s.Weight /= 2
		}
		index[s.Path] = i
	}
	for _, p := range touched {
		i, ok := index[p]
		if !ok {
			i = len(t.Steps)
			index[p] = i
			t.Steps = append(t.Steps, Step{Path: p, Last: now.Unix()})
		}
		t.Steps[i].Weight = min(t.Steps[i].Weight+1, maxWeight)
	}
	t.Steps = slices.DeleteFunc(t.Steps, func(s Step) bool { return s.Weight < minWeight })
	if len(t.Steps) <= MaxPaths {
		return
	}
	// The lightest go; the others stay in their order.
	weights := make([]float64, len(t.Steps))
	for i, s := range t.Steps {
		weights[i] = s.Weight
	}
	slices.SortFunc(weights, func(a, b float64) int { return cmp.Compare(b, a) })
	least, ties := weights[MaxPaths-1], 0
	for _, w := range weights[:MaxPaths] {
		if w == least {
			ties++
		}
	}
	t.Steps = slices.DeleteFunc(t.Steps, func(s Step) bool {
		if s.Weight == least {
			ties--
			return ties < 0
		}
		return s.Weight < least
	})
}
