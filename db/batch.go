package db

// batch is what one commit writes. It is in the layer at once, but nobody who
// reads looks for its record there before that is durable.
type batch struct {
	seq   uint64 // the record that it becomes
	layer *layer
	list  []*entry // whose last version is of the batch, in the order in which they were written
	body  []byte   // of the record: they, encoded
	valid int      // how many more paths are valid

	writes          []*write // whose turn has come
	barrier, settle bool     // what those want that have changed something
	err             error    // why none of them can be written
}

// mark is how far a batch is.
type mark struct{ entries, bytes, valid int }

func (b *batch) add(bucket bucketID, key string, value []byte) {
	b.list = append(b.list, b.layer.set(bucket, key, value, b.seq))
	b.body = appendChange(b.body, bucket, key, value)
}

func (b *batch) mark() mark { return mark{len(b.list), len(b.body), b.valid} }

// cut takes back what was written since m.
func (b *batch) cut(m mark) {
	for i := len(b.list) - 1; i >= m.entries; i-- {
		b.layer.unset(b.list[i])
	}
	b.list, b.body, b.valid = b.list[:m.entries], b.body[:m.bytes], m.valid
}

// sees is r with what the batch has written, and what is in doubt: it will be made
// durable first.
func (b *batch) sees(r reader) reader {
	r.seq = b.seq
	if r.hides != nil {
		r.layers[1] = nil
	}
	return r
}

// do runs the writes. Those that are refused are taken back alone; their error is
// with them.
func (b *batch) do(v *views, queued []*write) {
	b.writes = append(b.writes, queued...)
	if b.err != nil {
		return
	}
	b.err = v.view(func(r reader) error {
		r = b.sees(r)
		w := writer{r, b}
		for _, q := range queued {
			before := b.mark()
			if q.err = q.ctx.Err(); q.err == nil {
				q.err = q.do(w)
			}
			if q.rejected = q.err != nil; q.rejected {
				b.cut(before)
			} else if b.mark() != before {
				b.barrier = b.barrier || q.barrier
				b.settle = b.settle || q.settle
			}
		}
		return nil
	})
}

// end puts in what a record has behind its writes.
func (b *batch) end(v *views, used []string, times map[string]int64) error {
	if b.err != nil || len(used) == 0 && b.valid == 0 {
		return b.err
	}
	return v.view(func(r reader) error {
		r = b.sees(r)
		w := writer{r, b}
		if err := putUses(w, used, times); err != nil {
			return err
		}
		if b.valid == 0 {
			return nil
		}
		count, _ := w.uint(bucketMeta, keyCount)
		return w.putUint(bucketMeta, keyCount, count+uint64(b.valid))
	})
}
