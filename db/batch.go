package db

// batch is what one commit writes. It is in the layer at once, but nobody who
// reads looks for its record there before that is durable.
type batch struct {
	seq   uint64 // the record that it becomes
	layer *layer
	list  []*entry // whose last version is of the batch, in the order in which they were written
	body  []byte   // of the record: they, encoded
	valid int      // how many more paths are valid
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
