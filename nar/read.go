package nar

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"storefs/store"
)

// Entry is a file, a link or a directory of an archive.
type Entry struct {
	// Depth is how many directories of the archive the entry lies in: 0 is the
	// object itself. An entry of a depth less than or equal to that of a
	// directory before it ends that directory.
	Depth  int
	Name   string // in its directory; "" at depth 0
	Kind   store.Kind
	Size   int64  // of a file's contents
	Target string // of a link
}

// Reader takes an archive apart. It accepts only what Dump could have written,
// byte for byte: no other order, no duplicates, no padding but zeros, no names
// with a slash. Its memory does not depend on what lengths the archive claims.
// Errors name the offset in the archive, and wrap store.ErrBadArchive if the
// archive is at fault.
type Reader struct {
	wire
	part bool // more follows the archive, so do not look for its end

	open    []openEntry // directories that are not ended yet
	begun   bool
	done    bool
	current string // name of the entry that Next gave last
	size    int64  // of its contents
	left    int64  // of its contents, unread
	inFile  bool   // its contents' end is still to come
	err     error
}

type openEntry struct {
	name string
	last string // name of the last child; "" before the first
}

// NewReader reads an archive that is all of r; maxSize, if it is not 0, bounds
// its bytes.
func NewReader(r io.Reader, maxSize int64) *Reader {
	return newReader(bufio.NewReaderSize(r, 64<<10), maxSize)
}

func newReader(br *bufio.Reader, maxSize int64) *Reader {
	if maxSize <= 0 {
		maxSize = math.MaxInt64
	}
	return &Reader{wire: wire{br: br, max: maxSize}}
}

// newPartReader reads an archive that is a part of br, and reads no further. It
// keeps all bytes but those of contents in kept.
func newPartReader(br *bufio.Reader, maxSize int64) *Reader {
	r := newReader(br, maxSize)
	r.part, r.keep = true, true
	return r
}

// Next goes to the next entry, over what was not read of the last one's
// contents. At the end it returns io.EOF.
func (r *Reader) Next() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	e, err := r.next()
	if err != nil {
		r.err = err
		if err != io.EOF {
			r.err = r.locate(err)
		}
	}
	return e, r.err
}

// Read reads the contents of the file that Next gave.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.br.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	r.offset += int64(n)
	if err != nil {
		r.err = r.locate(early(err))
		err = r.err
	}
	return n, err
}

// Path is where the entry lies that Next gave last, "" for the object itself.
func (r *Reader) Path() string {
	var b strings.Builder
	for _, o := range r.open {
		if o.name != "" && b.Len()+len(o.name) < maxTarget {
			b.WriteString(o.name + "/")
		}
	}
	return strings.TrimSuffix(b.String()+r.current, "/")
}

// locatedError says where in an archive an error is.
type locatedError struct {
	offset int64
	path   string
	err    error
}

func (e *locatedError) Error() string {
	if e.path != "" {
		return fmt.Sprintf("at byte %d, in %q: %v", e.offset, e.path, e.err)
	}
	return fmt.Sprintf("at byte %d: %v", e.offset, e.err)
}

func (e *locatedError) Unwrap() error { return e.err }

// locate says where in the archive an error is, once: the archive may come from
// a reader of this kind, which has said so.
func (r *Reader) locate(err error) error {
	var located *locatedError
	if errors.As(err, &located) {
		return err
	}
	return &locatedError{r.offset, r.Path(), err}
}

func (r *Reader) next() (Entry, error) {
	if !r.begun {
		r.begun = true
		if err := r.expect(magic); err != nil {
			return Entry{}, err
		}
		return r.node("")
	}
	if r.inFile {
		if err := r.endFile(); err != nil {
			return Entry{}, err
		}
	}
	for len(r.open) > 0 {
		tag, err := r.tag()
		if err != nil {
			return Entry{}, err
		}
		switch tag {
		case ")":
			r.current = ""
			r.open = r.open[:len(r.open)-1]
			if err := r.endEntry(); err != nil {
				return Entry{}, err
			}
		case "entry":
			name, err := r.entryName()
			if err != nil {
				return Entry{}, err
			}
			return r.node(name)
		default:
			return Entry{}, bad(`%q where "entry" or ")" must be`, tag)
		}
	}
	if !r.done && !r.part {
		if _, err := r.br.ReadByte(); err == nil {
			return Entry{}, bad("more bytes follow the archive")
		} else if err != io.EOF {
			return Entry{}, err
		}
	}
	r.done = true
	return Entry{}, io.EOF
}

// entryName reads the name of a directory's entry, which must be greater than
// the one before.
func (r *Reader) entryName() (string, error) {
	if err := r.expect("(", "name"); err != nil {
		return "", err
	}
	b, err := r.str(maxName)
	if err != nil {
		return "", err
	}
	name := string(b)
	dir := &r.open[len(r.open)-1]
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return "", bad("the name %q", name)
	case name == dir.last:
		return "", bad("the name %q twice", name)
	case name < dir.last:
		return "", bad("the name %q after %q", name, dir.last)
	}
	dir.last = name
	r.current = name
	return name, r.expect("node")
}

// node reads a node up to its contents or its first child.
func (r *Reader) node(name string) (Entry, error) {
	e := Entry{Depth: len(r.open), Name: name}
	if err := r.expect("(", "type"); err != nil {
		return e, err
	}
	typ, err := r.tag()
	if err != nil {
		return e, err
	}
	switch typ {
	case "regular":
		return e, r.file(&e)
	case "symlink":
		e.Kind = store.KindSymlink
		if err := r.expect("target"); err != nil {
			return e, err
		}
		target, err := r.str(maxTarget)
		if err != nil {
			return e, err
		}
		e.Target = string(target)
		if e.Target == "" || strings.Contains(e.Target, "\x00") {
			return e, bad("the link target %q", e.Target)
		}
		if err := r.expect(")"); err != nil {
			return e, err
		}
		return e, r.endEntry()
	case "directory":
		if len(r.open) == MaxDepth {
			return e, bad("more than %d directories deep", MaxDepth)
		}
		e.Kind = store.KindDirectory
		r.open = append(r.open, openEntry{name: name})
		r.current = ""
		return e, nil
	}
	return e, bad("a node of type %q", typ)
}

func (r *Reader) file(e *Entry) error {
	e.Kind = store.KindRegular
	tag, err := r.tag()
	if err == nil && tag == "executable" {
		e.Kind = store.KindExecutable
		if err = r.expect(""); err == nil {
			tag, err = r.tag()
		}
	}
	if err != nil {
		return err
	}
	if tag != "contents" {
		return bad(`%q where "contents" must be`, tag)
	}
	n, err := r.number()
	if err != nil {
		return err
	}
	if n > uint64(r.max-r.offset) {
		return r.tooLarge()
	}
	e.Size = int64(n)
	r.size, r.left, r.inFile = e.Size, e.Size, true
	return nil
}

// endFile reads what follows contents.
func (r *Reader) endFile() error {
	for r.left > 0 {
		n, err := r.br.Discard(int(min(r.left, 1<<30)))
		r.left -= int64(n)
		r.offset += int64(n)
		if err != nil {
			return early(err)
		}
	}
	r.inFile = false
	if _, err := r.bytes(0, padding(r.size)); err != nil {
		return err
	}
	if err := r.expect(")"); err != nil {
		return err
	}
	return r.endEntry()
}

// endEntry reads what follows the node of a directory's entry.
func (r *Reader) endEntry() error {
	if len(r.open) == 0 {
		return nil
	}
	return r.expect(")")
}

func (r *Reader) expect(tags ...string) error {
	for _, want := range tags {
		got, err := r.tag()
		if err != nil {
			return err
		}
		if got != want {
			return bad("%q where %q must be", got, want)
		}
	}
	return nil
}

// tag reads one of the format's own words.
func (r *Reader) tag() (string, error) {
	b, err := r.str(16)
	return string(b), err
}

// HashStream reads an archive to its end, checks that it is well formed, and
// hashes it.
func HashStream(rd io.Reader) (Summary, error) {
	d := newDigest(store.SHA256)
	r := NewReader(io.TeeReader(rd, d), 0)
	root, err := r.Next()
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF {
		return Summary{}, fmt.Errorf("read archive: %w", err)
	}
	return Summary{Kind: root.Kind, Hash: d.sum(), Size: r.offset}, nil
}
