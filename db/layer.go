package db

import (
	"math"
	"slices"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// layer is what several records have changed: a table of keys, each with all of
// its versions, so that whoever began to read before a commit sees nothing of it,
// and no commit has to copy what is there. One goroutine writes into it, until
// it is written into bbolt's file.
//
// Most keys are only ever asked for by name. So they are put in order when
// somebody walks over them, or when the file gets them.
type layer struct {
	mu     sync.RWMutex
	tables [buckets]table
	count  int     // of keys
	spare  []entry // to be used next
}

type table struct {
	entries map[string]*entry
	sorted  []*entry
	rest    []*entry // which are not in sorted yet
}

// entry is a key with the last of its versions.
type entry struct {
	key string
	version
}

// version is what a key maps to since a record, until another one.
type version struct {
	value []byte // nil: to nothing
	seq   uint64 // of the record; never: there is no such version
	older *version
}

const never = math.MaxUint64

// spares is how many entries are allocated at once.
const spares = 64

// get is what key maps to at seq. It is not ok if nothing is said about it.
func (l *layer) get(bucket bucketID, key string, seq uint64) (value []byte, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	e := l.tables[bucket].entries[key]
	if e == nil {
		return nil, false
	}
	return e.at(seq)
}

func (e *entry) at(seq uint64) (value []byte, ok bool) {
	for v := &e.version; v != nil; v = v.older {
		if v.seq <= seq {
			return v.value, true
		}
	}
	return nil, false
}

// has reports whether anything is said about the bucket.
func (l *layer) has(bucket bucketID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.tables[bucket].entries) > 0
}

// set adds a version.
func (l *layer) set(bucket bucketID, key string, value []byte, seq uint64) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tables[bucket]
	if e := t.entries[key]; e != nil {
		if e.seq != never {
			older := e.version
			e.older = &older
		}
		e.value, e.seq = value, seq
		return e
	}
	if len(l.spare) == 0 {
		l.spare = make([]entry, spares)
	}
	e := &l.spare[0]
	l.spare = l.spare[1:]
	e.key, e.value, e.seq = key, value, seq
	if t.entries == nil {
		t.entries = make(map[string]*entry)
	}
	t.entries[key] = e
	t.rest = append(t.rest, e)
	l.count++
	return e
}

// unset takes the last version back.
func (l *layer) unset(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.older != nil {
		e.version = *e.older
		return
	}
	// Its place stays: somebody may have put it in order.
	e.version = version{seq: never}
}

// from is the first key at or behind key of which something is said at seq.
func (l *layer) from(bucket bucketID, key string, seq uint64) place {
	l.mu.RLock()
	defer l.mu.RUnlock()
	t := &l.tables[bucket]
	if len(t.rest) > 0 {
		l.mu.RUnlock()
		l.order(bucket)
		l.mu.RLock()
	}
	i, _ := slices.BinarySearchFunc(t.sorted, key, compareKey)
	for _, e := range t.sorted[i:] {
		if value, ok := e.at(seq); ok {
			return place{e.key, value}
		}
	}
	return place{}
}

func compareKey(e *entry, key string) int { return strings.Compare(e.key, key) }

// order puts what came since the last time in order, and returns all keys of the
// bucket.
func (l *layer) order(bucket bucketID) []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tables[bucket]
	slices.SortFunc(t.rest, func(a, b *entry) int { return strings.Compare(a.key, b.key) })
	// From the end on, each goes to its place, and what is behind that moves by
	// as many as are still to come.
	end := len(t.sorted)
	t.sorted = append(t.sorted, t.rest...)
	for n := len(t.rest); n > 0; n-- {
		e := t.rest[n-1]
		at, _ := slices.BinarySearchFunc(t.sorted[:end], e.key, compareKey)
		copy(t.sorted[at+n:], t.sorted[at:end])
		t.sorted[at+n-1] = e
		end = at
	}
	t.rest = nil
	return t.sorted
}

// putInto writes what is said at seq into the file. Nobody writes into the layer
// meanwhile.
func (l *layer) putInto(tx *bolt.Tx, seq uint64) error {
	for bucket := range buckets {
		if !l.has(bucket) {
			continue
		}
		b := bucket.in(tx)
		for _, e := range l.order(bucket) {
			value, ok := e.at(seq)
			if !ok {
				continue
			}
			var err error
			if value == nil {
				err = b.Delete([]byte(e.key))
			} else {
				err = b.Put([]byte(e.key), value)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
