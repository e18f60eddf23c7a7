package instantiate

import (
	"encoding/binary"
	"io"
)

// narWriter writes the elements of a NAR: strings with their length in front,
// padded with zeros to a multiple of 8 bytes. After an error it does nothing.
type narWriter struct {
	w    io.Writer
	err  error
	buf  []byte
	copy []byte // for contents; kept, as memory that is new costs more than to read a small file
}

func (w *narWriter) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *narWriter) strings(list ...string) {
	w.buf = w.buf[:0]
	for _, s := range list {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(len(s)))
		w.buf = append(w.buf, s...)
		w.buf = append(w.buf, zeros[:padding(int64(len(s)))]...)
	}
	w.write(w.buf)
}

// file writes the content of r, which must have exactly size bytes.
func (w *narWriter) file(r io.Reader, size int64) {
	w.write(binary.LittleEndian.AppendUint64(nil, uint64(size)))
	if w.err != nil {
		return
	}
	if n := min(size+1, 256<<10); int64(len(w.copy)) < n {
		w.copy = make([]byte, n)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w.w}, struct{ io.Reader }{io.LimitReader(r, size)}, w.copy)
	switch {
	case err != nil:
		w.fail(err)
	case n < size:
		w.fail(errUnsteady)
	}
	w.write([]byte(zeros[:padding(size)]))
}

func (w *narWriter) write(b []byte) {
	if w.err != nil {
		return
	}
	_, err := w.w.Write(b)
	w.fail(err)
}

const zeros = "\x00\x00\x00\x00\x00\x00\x00\x00"

func padding(n int64) int64 { return -n & 7 }
