package db

import (
	"encoding/binary"
	"fmt"
	"slices"

	"storefs/store"
)

// record is the value of a valid path: store.Info with base names. A million of
// them are in the file, so it is written compactly: a byte for the kind, the 32
// bytes of the NAR's SHA-256, then varints and strings with their length.
type record struct {
	kind       byte
	narHash    string
	narSize    uint64
	registered uint64
	deriver    string
	ca         string
	references []string
}

// kinds in the order of their codes, which never changes.
var kinds = [...]store.Kind{store.KindUnknown, store.KindDirectory, store.KindRegular, store.KindExecutable, store.KindSymlink}

func kindCode(k store.Kind) (byte, error) {
	i := slices.Index(kinds[:], k)
	if i < 0 {
		return 0, fmt.Errorf("%q is no kind of a store object", k)
	}
	return byte(i), nil
}

func kindOf(code byte) store.Kind {
	if int(code) < len(kinds) {
		return kinds[code]
	}
	return store.KindUnknown
}

// record checks i and turns it into what is written.
func (d *DB) record(i store.Info) (record, error) {
	code, err := kindCode(i.Kind)
	if err != nil {
		return record{}, err
	}
	if i.NarHash.Algo != store.SHA256 || len(i.NarHash.Sum) != 32 {
		return record{}, fmt.Errorf("its NAR hash is not SHA-256")
	}
	if i.NarSize < 0 {
		return record{}, fmt.Errorf("its NAR has %d bytes", i.NarSize)
	}
	r := record{
		kind: code, narHash: i.NarHash.Sum, narSize: uint64(i.NarSize),
		registered: uint64(max(i.Registered, 0)), ca: i.CA,
	}
	if i.Deriver != "" {
		if r.deriver, err = d.base(i.Deriver); err != nil {
			return record{}, err
		}
	}
	if r.references, err = d.bases(i.References); err != nil {
		return record{}, err
	}
	slices.Sort(r.references)
	r.references = slices.Compact(r.references)
	return r, nil
}

func (d *DB) info(base string, r record) store.Info {
	i := store.Info{
		Path: d.join(base), Kind: kindOf(r.kind),
		NarHash: store.Hash{Algo: store.SHA256, Sum: r.narHash}, NarSize: int64(r.narSize),
		CA: r.ca, Registered: int64(r.registered),
		References: make([]store.Path, len(r.references)),
	}
	if r.deriver != "" {
		i.Deriver = d.join(r.deriver)
	}
	for n, ref := range r.references {
		i.References[n] = d.join(ref)
	}
	return i
}

func (r record) encode() []byte {
	b := append(make([]byte, 0, 128+64*len(r.references)), r.kind)
	b = append(b, r.narHash...)
	b = binary.AppendUvarint(b, r.narSize)
	b = binary.AppendUvarint(b, r.registered)
	b = appendString(b, r.deriver)
	b = appendString(b, r.ca)
	b = binary.AppendUvarint(b, uint64(len(r.references)))
	for _, ref := range r.references {
		b = appendString(b, ref)
	}
	return b
}

func decodeRecord(base string, b []byte) (record, error) {
	c := decoder{b: b}
	r := record{kind: c.bytes(1)[0], narHash: string(c.bytes(32))}
	r.narSize, r.registered = c.uint(), c.uint()
	r.deriver, r.ca = c.string(), c.string()
	for n := c.uint(); n > 0 && !c.bad; n-- {
		r.references = append(r.references, c.string())
	}
	if c.bad || len(c.b) > 0 {
		return record{}, fmt.Errorf("the entry of %s: %w", base, ErrDamaged)
	}
	return r, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads what the append functions wrote. After an error it gives zero
// values, and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (c *decoder) bytes(n int) []byte {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return make([]byte, min(n, 32))
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *decoder) uint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *decoder) string() string {
	n := c.uint()
	if n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return ""
	}
	return string(c.bytes(int(n)))
}
