package db

import (
	"bytes"

	"github.com/tidwall/btree"
	bolt "go.etcd.io/bbolt"
)

// change is one key and what it maps to.
type change struct {
	bucket, key string
	value       []byte // nil: to nothing
	seq         uint64 // the record of the log that it is in; 0: none yet
}

// before orders changes by bucket and key. Most of those that are compared are in
// the same bucket.
func (c change) before(d change) bool {
	if c.bucket != d.bucket {
		return c.bucket < d.bucket
	}
	return c.key < d.key
}

// changes are what was changed since something, the last word about each key, in
// order.
type changes = btree.BTreeG[change]

func newChanges() *changes {
	// Few items in a node: each commit copies those nodes that it changes.
	return btree.NewBTreeGOptions(change.before, btree.Options{Degree: 8, NoLocks: true})
}

// overlay is what is durable in the log and lies over bbolt's file. Nobody
// changes it: each commit makes another one.
type overlay struct {
	changes *changes
	// since is the first transaction of bbolt which has all that was taken out
	// of the overlay.
	since int
}

// reader is a transaction as the queries see it.
type reader struct {
	tx   *bolt.Tx
	open map[string]*bolt.Bucket // those found before, by name
	// over lies over tx; nil for nothing.
	over *changes
}

func (r reader) bucket(name string) *bolt.Bucket {
	b := r.open[name]
	if b == nil {
		b = r.tx.Bucket([]byte(name))
		r.open[name] = b
	}
	return b
}

// get returns what key maps to, nil if nothing. Copy what outlives the
// transaction, and write into nothing of it.
func (r reader) get(bucket, key string) []byte {
	if r.over != nil && r.over.Len() > 0 {
		if c, ok := r.over.Get(change{bucket: bucket, key: key}); ok {
			return c.value
		}
	}
	return r.bucket(bucket).Get([]byte(key))
}

// cursor walks the keys of a bucket in byte order, as bbolt's does.
func (r reader) cursor(bucket string) *cursor {
	c := &cursor{bucket: bucket, below: r.bucket(bucket).Cursor()}
	if r.over != nil && r.over.Len() > 0 {
		c.over = r.over.Iter()
		c.both = true
	}
	return c
}

// cursor is valid as long as nothing is written to what it walks over.
type cursor struct {
	bucket string
	below  *bolt.Cursor
	key    []byte // where below is, nil at its end
	value  []byte
	both   bool // there is something over it
	over   btree.IterG[change]
	ahead  bool // over is at a change of the bucket
}

// seek moves to key or, if it is not there, to the next one. The key is nil at
// the end.
func (c *cursor) seek(key []byte) (k, v []byte) {
	c.key, c.value = c.below.Seek(key)
	if !c.both {
		return c.key, c.value
	}
	c.ahead = c.over.Seek(change{bucket: c.bucket, key: string(key)})
	return c.here()
}

func (c *cursor) next() (k, v []byte) {
	if !c.both {
		c.key, c.value = c.below.Next()
		return c.key, c.value
	}
	c.pass(c.order())
	return c.here()
}

// order tells who is at the next key: negative for below, positive for what lies
// over it, 0 for both.
func (c *cursor) order() int {
	switch over := c.ahead && c.over.Item().bucket == c.bucket; {
	case !over:
		return -1
	case c.key == nil:
		return 1
	default:
		return bytes.Compare(c.key, []byte(c.over.Item().key))
	}
}

// pass leaves the key behind at which those are whom order has told of.
func (c *cursor) pass(order int) {
	if order <= 0 && c.key != nil {
		c.key, c.value = c.below.Next()
	}
	if order >= 0 {
		c.ahead = c.over.Next()
	}
}

// here is the first key from here on that maps to something.
func (c *cursor) here() (k, v []byte) {
	for {
		order := c.order()
		if order < 0 {
			return c.key, c.value
		}
		if item := c.over.Item(); item.value != nil {
			return []byte(item.key), item.value
		}
		c.pass(order)
	}
}
