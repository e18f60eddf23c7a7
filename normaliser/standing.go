package normaliser

import (
	"cmp"
	"context"
	"encoding/binary"
	"runtime"
	"slices"
	"sync"

	"storefs/store"
)

// manyTargets is from how many targets on they are looked up in the order of the
// database, and on all processors: one after the other as they come, each lookup
// of a large database meets pages that no cache of the processor has.
const manyTargets = 256

// standing is what is known of a target before anything is walked.
type standing struct {
	outputs []store.Path
	ok      bool // realised
}

// standings looks up which of many targets are realised; nil if they are few.
func (n *Normaliser) standings(ctx context.Context, targets []store.Path) []standing {
	if len(targets) < manyTargets {
		return nil
	}
	type place struct {
		key   uint64 // the beginning of its name
		index int
	}
	order := make([]place, 0, len(targets))
	for i, t := range targets {
		var begin [8]byte
		if t.IsExpr() {
			copy(begin[:], t.Base())
			order = append(order, place{binary.BigEndian.Uint64(begin[:]), i})
		}
	}
	slices.SortFunc(order, func(a, b place) int { return cmp.Compare(a.key, b.key) })
	all := make([]standing, len(targets))
	parts := runtime.GOMAXPROCS(0)
	var looking sync.WaitGroup
	for part := range parts {
		own := order[len(order)*part/parts : len(order)*(part+1)/parts]
		looking.Go(func() {
			for at, p := range own {
				if at&0xff == 0 && ctx.Err() != nil {
					return
				}
				s := &all[p.index]
				// What went wrong is found out, and told, when it is walked.
				if outputs, ok, err := n.store.Realised(targets[p.index]); err == nil && ok {
					s.outputs, s.ok = outputs, true
				}
			}
		})
	}
	looking.Wait()
	return all
}
