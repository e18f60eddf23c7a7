package normaliser

import "slices"

// wants says which outputs of a derivation are needed: all of them, or those
// that are named.
type wants struct {
	all   bool
	names []string // sorted; shared, so never changed in place
}

var wantAll = wants{all: true}

func (w wants) has(name string) bool {
	if w.all {
		return true
	}
	_, ok := slices.BinarySearch(w.names, name)
	return ok
}

// covers reports whether everything in o is in w.
func (w wants) covers(o wants) bool {
	if w.all {
		return true
	}
	if o.all {
		return false
	}
	for _, n := range o.names {
		if !w.has(n) {
			return false
		}
	}
	return true
}

func (w wants) union(o wants) wants {
	switch {
	case w.covers(o):
		return w
	case o.covers(w):
		return o
	}
	names := slices.Concat(w.names, o.names)
	slices.Sort(names)
	return wants{names: slices.Compact(names)}
}
