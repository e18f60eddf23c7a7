package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"storefs/store"
)

// wire reads numbers and strings in the archive's form. No string is longer than
// maxTarget, so that its memory does not depend on what the input claims.
type wire struct {
	br     *bufio.Reader
	offset int64 // of what is read next
	max    int64 // offsets up to which reading is allowed
	keep   bool  // collect what is read in kept
	kept   []byte
	buf    [maxTarget + 1]byte
}

func (w *wire) number() (uint64, error) {
	b, err := w.bytes(8, 0)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// str reads a string of at most limit bytes, valid until the next call.
func (w *wire) str(limit uint64) ([]byte, error) {
	n, err := w.number()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, bad("a string of %d bytes where %d are the most", n, limit)
	}
	return w.bytes(int(n), padding(int64(n)))
}

// bytes reads n bytes and the padding that follows them.
func (w *wire) bytes(n, padding int) ([]byte, error) {
	b := w.buf[:n+padding]
	if int64(len(b)) > w.max-w.offset {
		return nil, w.tooLarge()
	}
	got, err := io.ReadFull(w.br, b)
	w.offset += int64(got)
	if err != nil {
		return nil, early(err)
	}
	if w.keep {
		w.kept = append(w.kept, b...)
	}
	for _, c := range b[n:] {
		if c != 0 {
			return nil, bad("padding that is not zero")
		}
	}
	return b[:n], nil
}

func (w *wire) tooLarge() error { return bad("larger than %d bytes", w.max) }

func bad(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, store.ErrBadArchive)...)
}

// early makes an end of the input in the midst of an archive an error of the
// archive. Other errors of the input are not.
func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return bad("it ends early")
	}
	return err
}

func appendNumber(b []byte, n uint64) []byte { return binary.LittleEndian.AppendUint64(b, n) }

func appendString(b []byte, s string) []byte {
	b = appendNumber(b, uint64(len(s)))
	b = append(b, s...)
	return appendPadding(b, int64(len(s)))
}

// appendPadding appends the zeros that follow n bytes.
func appendPadding(b []byte, n int64) []byte {
	var zeros [8]byte
	return append(b, zeros[:padding(n)]...)
}

// padding is how many zeros follow n bytes.
func padding(n int64) int { return int(-n & 7) }
