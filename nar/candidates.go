package nar

import (
	"slices"
	"strings"
	"sync"

	"storefs/references"
	"storefs/store"
)

// Candidates are the paths that archives may refer to. They are made once for all
// archives: of a derivation with many outputs, each may refer to all of them.
type Candidates struct {
	set   *references.Set
	paths func() []store.Path // sorted, and so by digest
}

// NewCandidates makes candidates of paths of one store, which must not be changed
// any more. It returns nil if there are none.
func NewCandidates(paths []store.Path) *Candidates {
	if len(paths) == 0 {
		return nil
	}
	digests := make([]string, len(paths))
	for i, p := range paths {
		digests[i] = p.Digest()
	}
	return &Candidates{
		set:   references.NewSet(digests),
		paths: sync.OnceValue(func() []store.Path { return slices.Sorted(slices.Values(paths)) }),
	}
}

// referred is those candidates whose digests were found, sorted.
func (c *Candidates) referred(found []string) []store.Path {
	if len(found) == 0 {
		return nil
	}
	var refs []store.Path
	all := c.paths()
	for _, digest := range found {
		i, _ := slices.BinarySearchFunc(all, digest, func(p store.Path, d string) int { return strings.Compare(p.Digest(), d) })
		for ; i < len(all) && all[i].Digest() == digest; i++ {
			refs = append(refs, all[i])
		}
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}
