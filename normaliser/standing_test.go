package normaliser

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"storefs/event"
	"storefs/store"
)

// What many targets are told of themselves is what each alone is told: realised
// ones, some of them twice, between those that are not, outputs, and what nobody
// knows.
func TestManyTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		n := &counted{Normaliser: w.start(t, 2), t: t}
		var targets []store.Path
		for i := range manyTargets {
			targets = append(targets, w.drv(fmt.Sprint("n", i)))
		}
		n.expect(event.Counts{Built: manyTargets}, targets...)
		n.expect(event.Counts{Reused: manyTargets}, targets...)
		n.expect(event.Counts{Reused: manyTargets + 1}, slices.Concat(targets, targets[:7], paths("n3"))...)

		for i := range 10 {
			at := i * 20
			targets = slices.Insert(targets, at, w.drv(fmt.Sprint("new", i), "n1"), path(fmt.Sprint("unknown", i)))
		}
		res, err := n.Realise(t.Context(), Request{Targets: targets, KeepGoing: true})
		if err == nil || len(res.Targets) != len(targets) {
			t.Fatal(err, len(res.Targets))
		}
		for i, got := range res.Targets {
			p := targets[i]
			alone, _ := n.Realise(t.Context(), Request{Targets: []store.Path{p}})
			want := alone.Targets[0]
			if got.Path != p || got.Realised != want.Realised || !slices.Equal(got.Paths, want.Paths) || (got.Failure == nil) != (want.Failure == nil) {
				t.Errorf("%s: %+v, alone %+v", p, got, want)
			}
		}
	})
}
