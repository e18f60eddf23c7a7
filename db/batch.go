package db

// batch is what one commit writes.
type batch struct {
	seq   uint64   // the record that it becomes
	under *changes // what lies over the file without it; not to be changed
	over  *changes // with it
	list  []change // in the order in which they were written
}

func newBatch(seq uint64, under *changes) *batch {
	return &batch{seq: seq, under: under, over: under.Copy()}
}

func (b *batch) add(c change) {
	c.seq = b.seq
	b.list = append(b.list, c)
	b.over.Set(c)
}

// cut takes back all but the first n changes.
func (b *batch) cut(n int) {
	if n == len(b.list) {
		return
	}
	b.list = b.list[:n]
	b.over = b.under.Copy()
	for _, c := range b.list {
		b.over.Set(c)
	}
}

// encode is the record of the batch.
func (b *batch) encode(buf []byte) []byte {
	for _, c := range b.list {
		buf = appendChange(buf, c)
	}
	return buf
}
