package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"storefs/store"
)

// The stream of `nix-store --export` (Nix, export-import.cc): for each path the
// number 1, its archive, exportMagic, the path, its references, its deriver or
// "", and the number 0, which once announced a signature; at the end the number 0.
const exportMagic = 0x4558494e

// maxReferences is far more than the largest closures have.
const maxReferences = 1 << 20

// Member is what an export stream says of a path, behind its archive.
type Member struct {
	Path       store.Path
	References []store.Path // as the stream has them: sorted, if Nix wrote it
	Deriver    store.Path   // "" if none is known
}

// ExportReader takes an export stream apart: Next, read the archive, Trailer,
// and so on until Next returns io.EOF. Errors name the offset in the stream and
// wrap store.ErrBadArchive if the stream is at fault.
type ExportReader struct {
	dir  store.Dir
	w    wire
	nar  *narReader
	done bool
}

// NewExportReader reads a stream of paths in dir. It may read further than the
// stream's end.
func NewExportReader(r io.Reader, dir store.Dir) *ExportReader {
	return &ExportReader{dir: dir, w: wire{br: bufio.NewReaderSize(r, 64<<10), max: math.MaxInt64}}
}

// Next goes to the next member and returns its archive, which ends with io.EOF
// once it was seen to be complete and well formed. maxSize, if it is not 0,
// bounds its bytes. The last member's Trailer must have been read.
func (x *ExportReader) Next(maxSize int64) (io.Reader, error) {
	switch {
	case x.done:
		return nil, io.EOF
	case x.nar != nil:
		return nil, errors.New("read export stream: the trailer of the last member was not read")
	}
	more, err := x.w.number()
	switch {
	case err != nil:
		return nil, x.locate(err)
	case more == 0:
		x.done = true
		return nil, io.EOF
	case more != 1:
		return nil, x.locate(bad("%#x where 1 or 0 must be: not an export stream", more))
	}
	x.nar = &narReader{r: newPartReader(x.w.br, maxSize)}
	return x.nar, nil
}

// Another reports, at the end of a stream, whether another one follows it, which is
// then what Next reads. Nix reads no further, and whatever is there is lost.
func (x *ExportReader) Another() (bool, error) {
	b, err := x.w.br.Peek(8)
	switch {
	case len(b) == 0 && errors.Is(err, io.EOF):
		return false, nil
	case err != nil && !errors.Is(err, io.EOF):
		return false, x.locate(err)
	case err != nil || binary.LittleEndian.Uint64(b) > 1:
		return false, x.locate(bad("what follows the end is not an export stream"))
	}
	x.done = false
	return true, nil
}

// Trailer reads what follows an archive, over what was not read of that.
func (x *ExportReader) Trailer() (Member, error) {
	if x.nar == nil {
		return Member{}, errors.New("read export stream: no member to read the trailer of")
	}
	if _, err := io.Copy(io.Discard, x.nar); err != nil {
		return Member{}, x.locate(err)
	}
	x.w.offset += x.nar.r.offset
	x.nar = nil
	m, err := x.trailer()
	if err != nil {
		return Member{}, x.locate(err)
	}
	return m, nil
}

func (x *ExportReader) trailer() (m Member, err error) {
	n, err := x.w.number()
	if err == nil && n != exportMagic {
		err = bad("%#x where %#x must be", n, exportMagic)
	}
	if err != nil {
		return m, err
	}
	if m.Path, err = x.path(); err != nil {
		return m, err
	}
	count, err := x.w.number()
	if err == nil && count > maxReferences {
		err = bad("%d references where %d are the most", count, maxReferences)
	}
	if err != nil {
		return m, err
	}
	for range count {
		p, err := x.path()
		if err != nil {
			return m, err
		}
		m.References = append(m.References, p)
	}
	deriver, err := x.w.str(maxTarget)
	if err != nil {
		return m, err
	}
	if len(deriver) > 0 {
		if m.Deriver, err = x.parse(deriver); err != nil {
			return m, err
		}
	}
	signed, err := x.w.number()
	switch {
	case err != nil:
		return m, err
	case signed == 1: // older versions of Nix
		_, err = x.w.str(maxTarget)
	case signed != 0:
		err = bad("%#x where 1 or 0 must be", signed)
	}
	return m, err
}

func (x *ExportReader) path() (store.Path, error) {
	b, err := x.w.str(maxTarget)
	if err != nil {
		return "", err
	}
	return x.parse(b)
}

func (x *ExportReader) parse(b []byte) (store.Path, error) {
	p, err := x.dir.Parse(string(b))
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, store.ErrBadArchive)
	}
	return p, nil
}

func (x *ExportReader) locate(err error) error {
	return fmt.Errorf("read export stream: at byte %d: %w", x.w.offset, err)
}

// narReader gives the bytes of an archive that is followed by something else: it
// is read along to know where it ends.
type narReader struct {
	r     *Reader
	given int // bytes of r.kept that were given
}

func (n *narReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if n.given < len(n.r.kept) {
			k := copy(p, n.r.kept[n.given:])
			n.given += k
			return k, nil
		}
		if n.r.left > 0 {
			return n.r.Read(p)
		}
		n.r.kept, n.given = n.r.kept[:0], 0
		if _, err := n.r.Next(); err != nil && len(n.r.kept) == 0 {
			return 0, err
		}
	}
}

// ExportWriter makes an export stream.
type ExportWriter struct{ w io.Writer }

// NewExportWriter writes a stream to w.
func NewExportWriter(w io.Writer) *ExportWriter { return &ExportWriter{w} }

// Add appends a path; dump writes its archive. Whoever imports a stream needs
// what a path refers to in front of it.
func (x *ExportWriter) Add(m Member, dump func(w io.Writer) error) error {
	if err := x.write(appendNumber(nil, 1)); err != nil {
		return err
	}
	if err := dump(x.w); err != nil {
		return err
	}
	b := appendNumber(nil, exportMagic)
	b = appendString(b, string(m.Path))
	b = appendNumber(b, uint64(len(m.References)))
	for _, p := range m.References {
		b = appendString(b, string(p))
	}
	b = appendString(b, string(m.Deriver))
	return x.write(appendNumber(b, 0))
}

// Close ends the stream. It does not close the writer.
func (x *ExportWriter) Close() error { return x.write(appendNumber(nil, 0)) }

func (x *ExportWriter) write(b []byte) error {
	if _, err := x.w.Write(b); err != nil {
		return fmt.Errorf("write export stream: %w", err)
	}
	return nil
}
