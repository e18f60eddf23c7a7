package db

import bolt "go.etcd.io/bbolt"

// change is one key and what it maps to.
type change struct {
	bucket bucketID
	key    string
	value  []byte // nil: to nothing
	seq    uint64 // the record of the log that it is in
}

// overlay is what is durable in the log and lies over bbolt's file. Nobody
// changes it: each commit makes another one, of the same layers.
type overlay struct {
	// layers are, with what is newer first: where the commits write, and what is
	// being written into the file, nil if nothing is.
	layers [2]*layer
	seq    uint64 // what later records have written is not to be seen
	// since is the first transaction of bbolt which has all that was taken out
	// of the overlay.
	since int
	// comes is the transaction of bbolt that is being committed, if it has more
	// than the overlay shows: all up to the record comesWith.
	comes     int
	comesWith uint64
	// hides, if it is not nil, is what was so before the transaction that the file
	// shows and that is in doubt, for those who only read. The second layer is nil
	// then.
	hides *layer
}

// reader is a transaction as the queries see it. One goroutine at a time has it.
type reader struct {
	tx      *bolt.Tx
	open    *handles // what was asked for before
	overlay          // what lies over tx
}

// handles are of one transaction.
type handles struct {
	buckets [buckets]opened
	key     []byte // room for one
}

// opened is a bucket of a transaction, and a cursor for get, which bbolt would
// make anew for each key.
type opened struct {
	bucket *bolt.Bucket
	cursor *bolt.Cursor
}

func (r reader) bucket(b bucketID) opened {
	o := &r.open.buckets[b]
	if o.bucket == nil {
		o.bucket = b.in(r.tx)
		o.cursor = o.bucket.Cursor()
	}
	return *o
}

// get returns what key maps to, nil if nothing. Copy what outlives the
// transaction, and write into nothing of it.
func (r reader) get(bucket bucketID, key string) []byte {
	if value, ok := r.over(bucket, key); ok {
		return value
	}
	r.open.key = append(r.open.key[:0], key...)
	k, v := r.bucket(bucket).cursor.Seek(r.open.key)
	if string(k) != key {
		return nil
	}
	return v
}

// over is what key maps to in the overlay. It is not ok if nothing is said about
// it there.
func (o *overlay) over(bucket bucketID, key string) (value []byte, ok bool) {
	for _, l := range o.layers {
		if l == nil {
			continue
		}
		if value, ok := l.get(bucket, key, o.seq); ok {
			return value, true
		}
	}
	return nil, false
}

// cursor walks the keys of a bucket in byte order, as bbolt's does.
func (r reader) cursor(bucket bucketID) *cursor {
	c := &cursor{below: r.bucket(bucket).bucket.Cursor(), bucket: bucket, seq: r.seq}
	for i, l := range r.layers {
		if l != nil && l.has(bucket) {
			c.layers[i], c.both = l, true
		}
	}
	return c
}

// cursor is where a walk is, in the file and in what lies over it. It is valid as
// long as nothing is written to what it walks over.
type cursor struct {
	bucket bucketID
	below  *bolt.Cursor
	key    []byte // where below is, nil at its end
	value  []byte
	both   bool // there is something over it
	layers [2]*layer
	seq    uint64
	over   [2]place // in the layers
	newest int      // the layer that is at the next key and has the last word about it; -1: none
}

// place is where a walk is in a layer.
type place struct {
	key   string // "" at its end
	value []byte // nil: to nothing
}

// seek moves to key or, if it is not there, to the next one. The key is nil at
// the end.
func (c *cursor) seek(key []byte) (k, v []byte) {
	c.key, c.value = c.below.Seek(key)
	if !c.both {
		return c.key, c.value
	}
	for i := range c.layers {
		c.move(i, string(key))
	}
	return c.here()
}

func (c *cursor) next() (k, v []byte) {
	if !c.both {
		c.key, c.value = c.below.Next()
		return c.key, c.value
	}
	c.pass()
	return c.here()
}

// move goes to the first key of a layer that is at or behind key.
func (c *cursor) move(layer int, key string) {
	if l := c.layers[layer]; l != nil {
		c.over[layer] = l.from(c.bucket, key, c.seq)
	}
}

// pass leaves the next key behind, wherever it is.
func (c *cursor) pass() {
	if c.newest < 0 {
		c.key, c.value = c.below.Next()
		return
	}
	key := c.over[c.newest].key
	if string(c.key) == key {
		c.key, c.value = c.below.Next()
	}
	for i := range c.over {
		if c.over[i].key == key {
			c.move(i, key+"\x00") // the first key behind it that there can be
		}
	}
}

// here is the first key from here on that maps to something.
func (c *cursor) here() (k, v []byte) {
	for {
		c.newest = -1
		for i, p := range c.over {
			switch {
			case p.key == "":
			case c.newest >= 0:
				if p.key < c.over[c.newest].key {
					c.newest = i
				}
			case c.key == nil || p.key <= string(c.key):
				c.newest = i
			}
		}
		if c.newest < 0 {
			return c.key, c.value
		}
		if p := c.over[c.newest]; p.value != nil {
			return []byte(p.key), p.value
		}
		c.pass()
	}
}
