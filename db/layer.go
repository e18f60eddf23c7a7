package db

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// layer is what several records have changed: keys, each with all of its versions,
// so that whoever began to read before a commit sees nothing of it, and no commit
// has to copy what is there. One goroutine at a time writes into it, until it is
// written into bbolt's file; nobody waits for it to look a key up.
//
// Most keys are only ever asked for by name. So they are put in order when
// somebody walks over them, or when the file gets them.
type layer struct {
	index  atomic.Pointer[index]
	newest [buckets]atomic.Pointer[entry] // the last key that came; the others are behind it
	count  int                            // of keys
	spare  []entry                        // to be used next

	mu     sync.RWMutex // of what follows
	sorted [buckets][]*entry
	upTo   [buckets]*entry // what came later is not in sorted yet
}

// index finds the entries by the hashes of their keys: each is at the place of its
// hash, or at the first free one behind it. Half of it is free, at least. Nothing
// is ever taken out, and one that is too small is copied, so that whoever looks
// something up there finds all that was in it when he began.
type index struct {
	seed  maphash.Seed
	slots []atomic.Pointer[entry]
}

// entry is a key with its versions.
type entry struct {
	key    string
	hash   uint64
	last   atomic.Pointer[version]
	before *entry // came before it into the bucket
	first  version
	bucket bucketID
}

// version is what a key maps to since a record, until another one. It is not
// changed once it can be seen.
type version struct {
	value []byte // nil: to nothing
	seq   uint64 // of the record
	older *version
}

const (
	// spares is how many entries are allocated at once.
	spares = 64
	// minSlots is how large an index begins, a power of two.
	minSlots = 512
)

func (x *index) hash(bucket bucketID, key string) uint64 {
	// Many a key is in several buckets.
	return maphash.String(x.seed, key) ^ bits.RotateLeft64(uint64(bucket)*0x9e3779b97f4a7c15, 32)
}

// find is the entry of key, or the place for it.
func (x *index) find(bucket bucketID, key string, hash uint64) (e *entry, free *atomic.Pointer[entry]) {
	for i := hash; ; i++ {
		p := &x.slots[i&uint64(len(x.slots)-1)]
		e := p.Load()
		if e == nil {
			return nil, p
		}
		if e.hash == hash && e.bucket == bucket && e.key == key {
			return e, nil
		}
	}
}

// larger is x with room for more.
func (x *index) larger() *index {
	if x == nil {
		return &index{maphash.MakeSeed(), make([]atomic.Pointer[entry], minSlots)}
	}
	l := &index{x.seed, make([]atomic.Pointer[entry], 2*len(x.slots))}
	for i := range x.slots {
		if e := x.slots[i].Load(); e != nil {
			for at := e.hash; ; at++ {
				if p := &l.slots[at&uint64(len(l.slots)-1)]; p.Load() == nil {
					p.Store(e)
					break
				}
			}
		}
	}
	return l
}

// get is what key maps to at seq. It is not ok if nothing is said about it.
func (l *layer) get(bucket bucketID, key string, seq uint64) (value []byte, ok bool) {
	x := l.index.Load()
	if x == nil {
		return nil, false
	}
	e, _ := x.find(bucket, key, x.hash(bucket, key))
	if e == nil {
		return nil, false
	}
	return e.at(seq)
}

func (e *entry) at(seq uint64) (value []byte, ok bool) {
	for v := e.last.Load(); v != nil; v = v.older {
		if v.seq <= seq {
			return v.value, true
		}
	}
	return nil, false
}

// has reports whether anything is said about the bucket.
func (l *layer) has(bucket bucketID) bool { return l.newest[bucket].Load() != nil }

// set adds a version.
func (l *layer) set(bucket bucketID, key string, value []byte, seq uint64) *entry {
	x := l.index.Load()
	if x == nil || 2*l.count >= len(x.slots) {
		x = x.larger()
		l.index.Store(x)
	}
	hash := x.hash(bucket, key)
	e, free := x.find(bucket, key, hash)
	if e != nil {
		e.last.Store(&version{value, seq, e.last.Load()})
		return e
	}
	if len(l.spare) == 0 {
		l.spare = make([]entry, spares)
	}
	e, l.spare = &l.spare[0], l.spare[1:]
	e.key, e.hash, e.bucket = key, hash, bucket
	e.first = version{value: value, seq: seq}
	e.last.Store(&e.first)
	e.before = l.newest[bucket].Load()
	l.newest[bucket].Store(e)
	free.Store(e)
	l.count++
	return e
}

// unset takes the last version back. The entry stays: somebody may have put it in
// order.
func (l *layer) unset(e *entry) { e.last.Store(e.last.Load().older) }

// from is the first key at or behind key of which something is said at seq.
func (l *layer) from(bucket bucketID, key string, seq uint64) place {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.upTo[bucket] != l.newest[bucket].Load() {
		l.mu.RUnlock()
		l.order(bucket)
		l.mu.RLock()
	}
	sorted := l.sorted[bucket]
	i, _ := slices.BinarySearchFunc(sorted, key, compareKey)
	for _, e := range sorted[i:] {
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
	var rest []*entry
	newest := l.newest[bucket].Load()
	for e := newest; e != l.upTo[bucket]; e = e.before {
		rest = append(rest, e)
	}
	l.upTo[bucket] = newest
	slices.SortFunc(rest, func(a, b *entry) int { return strings.Compare(a.key, b.key) })
	// From the end on, each goes to its place, and what is behind that moves by
	// as many as are still to come.
	sorted := l.sorted[bucket]
	end := len(sorted)
	sorted = append(sorted, rest...)
	for n := len(rest); n > 0; n-- {
		e := rest[n-1]
		at, _ := slices.BinarySearchFunc(sorted[:end], e.key, compareKey)
		copy(sorted[at+n:], sorted[at:end])
		sorted[at+n-1] = e
		end = at
	}
	l.sorted[bucket] = sorted
	return sorted
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
