package db

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// schemaVersion is what this program writes. It reads olderVersion as well, which
// had no log.
const (
	schemaVersion = "2"
	olderVersion  = "1"
)

// The buckets. Keys are base names; where a key is a pair, a NUL, which no
// name contains, stands between the two, so that all pairs of one name are
// neighbours.
const (
	bucketMeta         bucketID = iota // "version", "store", "count", "mark", "log"
	bucketValid                        // path → info
	bucketReferrers                    // path NUL referrer
	bucketSuccessors                   // expression → closure
	bucketPredecessors                 // closure NUL expression
	bucketSubstitutes                  // path → expressions, newest first
	bucketSubstituteOf                 // expression NUL path
	bucketOutputs                      // output → derivation NUL output name
	bucketDerivers                     // output NUL derivation → output name
	bucketDrvOutputs                   // derivation NUL output → output name
	bucketModulo                       // derivation → hashes modulo fixed outputs
	bucketDeclared                     // output → kind it was declared to have
	bucketKinds                        // output that is not valid any more → kind it had
	bucketFailures                     // goal → failure
	bucketDurations                    // derivation → nanoseconds
	bucketNameTimes                    // name of a derivation without digest, and that without its version → nanoseconds
	bucketUse                          // path → seconds since 1970
	bucketDamaged                      // path → what was found to be wrong with it
	bucketTrails                       // program NUL first path → time, what it touched then
	buckets
)

// bucketID is a bucket. The log calls it by that number: new ones come last.
type bucketID byte

// bucketNames are what bbolt's file calls them.
var bucketNames = [buckets]string{
	"meta", "valid", "referrers", "successors", "predecessors", "substitutes", "substituteof", "outputs", "derivers", "drvoutputs",
	"modulo", "declared", "kinds", "failures", "durations", "nametimes", "use", "damaged", "trails",
}

// in is the bucket in a transaction of the file, nil if it is not there.
func (b bucketID) in(tx *bolt.Tx) *bolt.Bucket { return tx.Bucket([]byte(bucketNames[b])) }

// laterBuckets were not in the first files of this version. Those who do not
// know them can work without.
var laterBuckets = []bucketID{bucketDamaged, bucketTrails}

const (
	keyVersion = "version"
	keyStore   = "store"
	keyCount   = "count"
	keyMark    = "mark"
	keyLog     = "log" // how much of the log is in the file: see position
)

// prepare checks that the file is ours, of our version and of our store, or,
// with create, lays an empty one out.
func (d *DB) prepare(create bool) error {
	empty, incomplete := false, false
	err := d.bolt.View(func(tx *bolt.Tx) error {
		m := bucketMeta.in(tx)
		if m == nil {
			k, _ := tx.Cursor().First()
			if empty = k == nil; empty && create {
				return nil
			}
			return fmt.Errorf("%w: it has no schema version", ErrDamaged)
		}
		if v := m.Get([]byte(keyVersion)); string(v) != schemaVersion && string(v) != olderVersion {
			return fmt.Errorf("%w: its schema is version %q, this program reads version %s", ErrVersion, v, schemaVersion)
		}
		if s := m.Get([]byte(keyStore)); string(s) != string(d.dir) {
			return fmt.Errorf("it belongs to the store %s, not to %s", s, d.dir)
		}
		for b := range buckets {
			if b.in(tx) == nil {
				if slices.Contains(laterBuckets, b) {
					incomplete = true
					continue
				}
				return fmt.Errorf("%w: its bucket %q is missing", ErrDamaged, bucketNames[b])
			}
		}
		return nil
	})
	if err == nil && incomplete {
		err = d.addBuckets()
	}
	if err != nil || !empty {
		return err
	}
	return diskError(d.bolt.Update(func(tx *bolt.Tx) error {
		for _, name := range bucketNames {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		m := bucketMeta.in(tx)
		for _, kv := range [][2]string{
			{keyVersion, schemaVersion},
			{keyStore, string(d.dir)},
			{keyCount, string(make([]byte, 8))},
		} {
			if err := m.Put([]byte(kv[0]), []byte(kv[1])); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (d *DB) addBuckets() error {
	if err := assure(d.disk); err != nil { // see restore, which comes later
		return diskError(err)
	}
	return diskError(d.bolt.Update(func(tx *bolt.Tx) error {
		for _, b := range laterBuckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(bucketNames[b])); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (r reader) has(bucket bucketID, key string) bool { return r.get(bucket, key) != nil }

// pairs gives the second halves (and the values) of all pairs that begin with
// first, in byte order, until f returns false.
func (r reader) pairs(bucket bucketID, first string, f func(second string, value []byte) bool) {
	prefix := []byte(first + "\x00")
	c := r.cursor(bucket)
	for k, v := c.seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.next() {
		if !f(string(k[len(prefix):]), v) {
			return
		}
	}
}

func (r reader) seconds(bucket bucketID, first string) []string {
	var out []string
	r.pairs(bucket, first, func(s string, _ []byte) bool {
		out = append(out, s)
		return true
	})
	return out
}

func (r reader) uint(bucket bucketID, key string) (uint64, bool) {
	v := r.get(bucket, key)
	if len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

// writer is a transaction as one queued write sees it: what it writes, it and the
// writes behind it read.
type writer struct {
	reader
	batch *batch
}

// hasNot reports whether key maps to nothing. Who has looked before tells what was
// seen, and since of the overlay then: what was not there at that time, nor is
// in the overlay now, can only have come into the file through another overlay.
func (w writer) hasNot(bucket bucketID, key string, absent bool, since int) bool {
	if absent && since == w.since {
		value, _ := w.over(bucket, key)
		return value == nil
	}
	return !w.has(bucket, key)
}

func (w writer) put(bucket bucketID, key string, value []byte) error {
	if len(key) == 0 || len(key) > bolt.MaxKeySize || len(value) > bolt.MaxValueSize {
		return fmt.Errorf("a key of %d bytes, a value of %d", len(key), len(value)) // bbolt would refuse it later
	}
	if value == nil {
		value = []byte{}
	}
	w.batch.add(bucket, key, value)
	return nil
}

// putPair writes a pair that maps to nothing.
func (w writer) putPair(bucket bucketID, first, second string) error {
	return w.put(bucket, pair(first, second), nil)
}

func (w writer) putUint(bucket bucketID, key string, v uint64) error {
	return w.put(bucket, key, binary.BigEndian.AppendUint64(nil, v))
}

func (w writer) del(bucket bucketID, key string) error {
	w.batch.add(bucket, key, nil)
	return nil
}

func pair(first, second string) string { return first + "\x00" + second }

func splitLines(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\n")
}
