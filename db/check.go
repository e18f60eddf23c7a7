package db

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// checkChunk is how many keys Check reads in one transaction: a long one would
// keep the file from reusing its pages.
const checkChunk = 1024

// Check reads the whole database and reports what contradicts itself. Its error
// is that of reading.
func (d *DB) Check(ctx context.Context, report func(p store.Path, message string)) error {
	c := checker{db: d, report: report}
	for _, b := range []struct {
		name  bucketID
		check func(tx reader, key string, value []byte)
	}{
		{bucketValid, c.valid},
		{bucketReferrers, c.referrer},
		{bucketSuccessors, c.successor},
		{bucketPredecessors, c.predecessor},
		{bucketOutputs, c.output},
		{bucketDrvOutputs, c.drvOutput},
	} {
		if err := c.bucket(ctx, b.name, b.check); err != nil {
			return fmt.Errorf("check %s: %w", d.path, err)
		}
	}
	return nil
}

type checker struct {
	db     *DB
	report func(p store.Path, message string)
}

func (c *checker) bucket(ctx context.Context, name bucketID, check func(tx reader, key string, value []byte)) error {
	var last []byte
	for {
		n := 0
		err := c.db.view(func(tx reader) error {
			cur := tx.cursor(name)
			k, v := cur.seek(last)
			if last != nil && bytes.Equal(k, last) {
				k, v = cur.next()
			}
			for ; k != nil && n < checkChunk; k, v = cur.next() {
				check(tx, string(k), v)
				last = bytes.Clone(k)
				n++
			}
			return ctx.Err()
		})
		if err != nil || n < checkChunk {
			return err
		}
	}
}

func (c *checker) found(base, format string, args ...any) {
	c.report(c.db.join(base), fmt.Sprintf(format, args...))
}

func (c *checker) valid(tx reader, base string, value []byte) {
	r, err := decodeRecord(base, value)
	if err != nil {
		c.found(base, "%s", err)
		return
	}
	for _, ref := range r.references {
		if !tx.has(bucketValid, ref) {
			c.found(base, "it refers to %s, which is not valid", c.db.join(ref))
		}
		if !tx.has(bucketReferrers, pair(ref, base)) {
			c.found(base, "it is not among the referrers of %s", c.db.join(ref))
		}
	}
}

func (c *checker) referrer(tx reader, key string, _ []byte) {
	ref, base, _ := strings.Cut(key, "\x00")
	r, err := tx.record(base)
	if err != nil {
		c.found(ref, "its referrer %s is not valid", c.db.join(base))
		return
	}
	if !slices.Contains(r.references, ref) {
		c.found(ref, "its referrer %s does not refer to it", c.db.join(base))
	}
}

func (c *checker) successor(tx reader, expr string, value []byte) {
	closure := string(value)
	for _, b := range []string{expr, closure} {
		if !tx.has(bucketValid, b) {
			c.found(expr, "it has the normal form %s, but %s is not valid", c.db.join(closure), c.db.join(b))
		}
	}
	if !tx.has(bucketPredecessors, pair(closure, expr)) {
		c.found(expr, "it is not among the predecessors of its normal form %s", c.db.join(closure))
	}
}

func (c *checker) predecessor(tx reader, key string, _ []byte) {
	closure, expr, _ := strings.Cut(key, "\x00")
	if string(tx.get(bucketSuccessors, expr)) != closure {
		c.found(closure, "it is not the normal form of its predecessor %s", c.db.join(expr))
	}
}

func (c *checker) output(tx reader, output string, value []byte) {
	drv, _, _ := strings.Cut(string(value), "\x00")
	if !tx.has(bucketValid, drv) {
		c.found(output, "it is an output of %s, which is not valid", c.db.join(drv))
	}
}

func (c *checker) drvOutput(tx reader, key string, _ []byte) {
	drv, output, _ := strings.Cut(key, "\x00")
	if !tx.has(bucketDerivers, pair(output, drv)) {
		c.found(output, "%s makes it, but is not among its derivers", c.db.join(drv))
	}
	if !tx.has(bucketOutputs, output) {
		c.found(output, "%s makes it, but it is not known", c.db.join(drv))
	}
}
