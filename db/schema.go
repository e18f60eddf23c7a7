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
	bucketMeta         = "meta"         // "version", "store", "count", "mark", "log"
	bucketValid        = "valid"        // path → info
	bucketReferrers    = "referrers"    // path NUL referrer
	bucketSuccessors   = "successors"   // expression → closure
	bucketPredecessors = "predecessors" // closure NUL expression
	bucketSubstitutes  = "substitutes"  // path → expressions, newest first
	bucketSubstituteOf = "substituteof" // expression NUL path
	bucketOutputs      = "outputs"      // output → derivation NUL output name
	bucketDerivers     = "derivers"     // output NUL derivation → output name
	bucketDrvOutputs   = "drvoutputs"   // derivation NUL output → output name
	bucketModulo       = "modulo"       // derivation → hashes modulo fixed outputs
	bucketDeclared     = "declared"     // output → kind it was declared to have
	bucketKinds        = "kinds"        // output that is not valid any more → kind it had
	bucketFailures     = "failures"     // goal → failure
	bucketDurations    = "durations"    // derivation → nanoseconds
	bucketNameTimes    = "nametimes"    // name of a derivation without digest, and that without its version → nanoseconds
	bucketUse          = "use"          // path → seconds since 1970
	bucketDamaged      = "damaged"      // path → what was found to be wrong with it
	bucketTrails       = "trails"       // program NUL first path → time, what it touched then
)

// allBuckets has new ones at its end: the log calls them by their number.
var allBuckets = [...]string{
	bucketMeta, bucketValid, bucketReferrers, bucketSuccessors, bucketPredecessors,
	bucketSubstitutes, bucketSubstituteOf, bucketOutputs, bucketDerivers, bucketDrvOutputs,
	bucketModulo, bucketDeclared, bucketKinds, bucketFailures, bucketDurations, bucketNameTimes, bucketUse,
	bucketDamaged, bucketTrails,
}

// laterBuckets were not in the first files of this version. Those who do not
// know them can work without.
var laterBuckets = []string{bucketDamaged, bucketTrails}

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
		m := tx.Bucket([]byte(bucketMeta))
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
		for _, b := range allBuckets {
			if tx.Bucket([]byte(b)) == nil {
				if slices.Contains(laterBuckets, b) {
					incomplete = true
					continue
				}
				return fmt.Errorf("%w: its bucket %q is missing", ErrDamaged, b)
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
		for _, b := range allBuckets {
			if _, err := tx.CreateBucket([]byte(b)); err != nil {
				return err
			}
		}
		m := tx.Bucket([]byte(bucketMeta))
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
	return diskError(d.bolt.Update(func(tx *bolt.Tx) error {
		for _, b := range laterBuckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (r reader) has(bucket, key string) bool { return r.get(bucket, key) != nil }

// pairs gives the second halves (and the values) of all pairs that begin with
// first, in byte order, until f returns false.
func (r reader) pairs(bucket, first string, f func(second string, value []byte) bool) {
	prefix := []byte(first + "\x00")
	c := r.cursor(bucket)
	for k, v := c.seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.next() {
		if !f(string(k[len(prefix):]), v) {
			return
		}
	}
}

func (r reader) seconds(bucket, first string) []string {
	var out []string
	r.pairs(bucket, first, func(s string, _ []byte) bool {
		out = append(out, s)
		return true
	})
	return out
}

func (r reader) uint(bucket, key string) (uint64, bool) {
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

func (w writer) put(bucket, key string, value []byte) error {
	if len(key) == 0 || len(key) > bolt.MaxKeySize || len(value) > bolt.MaxValueSize {
		return fmt.Errorf("a key of %d bytes, a value of %d", len(key), len(value)) // bbolt would refuse it later
	}
	if value == nil {
		value = []byte{}
	}
	w.batch.add(change{bucket: bucket, key: key, value: value})
	return nil
}

// putPair writes a pair that maps to nothing.
func (w writer) putPair(bucket, first, second string) error {
	return w.put(bucket, pair(first, second), nil)
}

func (w writer) putUint(bucket, key string, v uint64) error {
	return w.put(bucket, key, binary.BigEndian.AppendUint64(nil, v))
}

func (w writer) del(bucket, key string) error {
	w.batch.add(change{bucket: bucket, key: key})
	return nil
}

func pair(first, second string) string { return first + "\x00" + second }

func splitLines(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\n")
}
