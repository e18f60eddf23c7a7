package db

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// The meta page of bbolt's file format, version 2: a page header of 16 bytes,
// then magic, version, page size and flags (4 bytes each), root bucket (16),
// free list (8), high water mark (8), transaction (8) and an FNV-1a checksum
// (8), in the machine's byte order.
const (
	pageHeader = 16
	metaSize   = 64
	boltMagic  = 0xED0CDAED
	boltFormat = 2
)

// checkFile looks for what bbolt takes on trust: that the file is as long as
// its newest meta page says. bbolt maps it, and would fault in what is missing.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return checkLength(f)
}

// sizedFile is what checkLength needs of one.
type sizedFile interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

func checkLength(f sizedFile) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%w: not a regular file", ErrDamaged)
	}
	m, err := newest(f)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: no page at its beginning is one of a database", ErrDamaged)
	}
	// Only now: whoever has the file makes it longer before the page that says so.
	if st, err = f.Stat(); err != nil {
		return err
	}
	if st.Size() < m.bytes {
		return fmt.Errorf("%w: truncated: %d bytes, should be at least %d", ErrDamaged, st.Size(), m.bytes)
	}
	return nil
}

// assure makes durable the last transaction that the file shows. The kernel takes
// a page whose sync has failed for written, and shows it: so both meta pages are
// written once more, as they are. What they lead to was synced before them.
func assure(f *os.File) error {
	m, err := newest(f)
	if err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("%w: no page at its beginning is one of a database", ErrDamaged)
	}
	both := make([]byte, 2*m.page)
	if _, err := f.ReadAt(both, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(both, 0); err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd())))
}

// reserved is how much of the disk bbolt's file has beyond its last page.
const reserved = 256 << 10

// reserve gives bbolt's file, which has holes, room behind its last page: on a disk
// that is full later, a deletion, which makes room, can still be written. Where there
// is none now, or a file system knows no such thing, it goes on without.
func reserve(f *os.File, size int64) {
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, size, reserved)
}

// newest is the meta page that counts, nil if neither of the two is whole.
func newest(f io.ReaderAt) (n *meta, err error) {
	page := int64(os.Getpagesize())
	for i := range int64(2) {
		m, err := readMeta(f, i*page)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		page = m.page // it may be from a machine with other pages
		if n == nil || m.txid > n.txid {
			n = m
		}
	}
	return n, nil
}

type meta struct {
	txid  uint64
	page  int64
	bytes int64 // the length that the file has at least
}

// readMeta reads the meta page at off; nil if there is none that is whole.
func readMeta(f io.ReaderAt, off int64) (*meta, error) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], off+pageHeader); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	order := binary.NativeEndian
	if order.Uint32(b[0:]) != boltMagic || order.Uint32(b[4:]) != boltFormat {
		return nil, nil
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if sum.Sum64() != order.Uint64(b[metaSize-8:]) {
		return nil, nil
	}
	page := int64(order.Uint32(b[8:]))
	return &meta{
		txid:  order.Uint64(b[48:]),
		page:  page,
		bytes: int64(order.Uint64(b[40:])) * page,
	}, nil
}

// diskError marks the errors that mean a full disk. bbolt formats some of its
// causes into text, so the text is looked at too.
func diskError(err error) error {
	if err == nil || errors.Is(err, store.ErrNoSpace) {
		return err
	}
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) ||
		strings.Contains(err.Error(), unix.ENOSPC.Error()) || strings.Contains(err.Error(), unix.EDQUOT.Error())
	if full {
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	return err
}
