package db

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The redo log is a ring of pages behind one page that names it. What it holds
// is durable before bbolt's file has it: one page to write and one sync, where
// bbolt syncs twice and writes every page from the changed ones up to its root.
//
// A record begins at the beginning of a page, so that no write touches what was
// durable before: its number, its length and its checksum (which begins with the
// salt of the log, so that nothing that anybody stores can be taken for a
// record), then the changes. Behind it, or at the beginning of the ring if it
// would not have fitted there, is the next one, with the next number.
//
// Behind the ring is a page with the last transaction of bbolt's file that is known
// to be durable, as far as an owner that ended in good order has said so. Nobody
// syncs it: it is to outlive processes only, as does what the kernel shows of the
// file and the disk has not.
const (
	logMagic  = "storefs redo log 1\n"
	logPage   = 4096
	logPages  = 1024 // of a new log, with the first
	minPages  = 8
	maxPages  = 1 << 16
	logHeader = 16 // of a record: number 8, length 4, checksum 4
	saltSize  = 16
)

// redoLog is the open log. Only the committer uses it.
type redoLog struct {
	file *os.File
	head logHead
	sum  uint32 // the checksum of the salt
	seq  uint64 // of the last record
	page int    // where the next record begins
	used int    // pages that hold, or lie between, records that bbolt's file has not
	buf  []byte
}

// logHead is the first page: the magic, then this.
type logHead struct {
	salt  [saltSize]byte
	pages int // with the first one
}

func (h logHead) encode() []byte {
	return binary.BigEndian.AppendUint32(append([]byte(logMagic), h.salt[:]...), uint32(h.pages))
}

// sign keeps the number of a transaction that is durable.
func (l *redoLog) sign(tx uint64) error {
	b := binary.BigEndian.AppendUint64(nil, tx)
	b = binary.BigEndian.AppendUint32(b, l.checksum(b, nil))
	_, err := l.file.WriteAt(b, int64(l.head.pages)*logPage)
	return err
}

// signed is that number, 0 if there is none.
func (l *redoLog) signed() uint64 {
	var b [12]byte
	if _, err := l.file.ReadAt(b[:], int64(l.head.pages)*logPage); err != nil || binary.BigEndian.Uint32(b[8:]) != l.checksum(b[:8], nil) {
		return 0
	}
	return binary.BigEndian.Uint64(b[:])
}

// position is how far the log is in bbolt's file.
type position struct {
	salt [saltSize]byte
	seq  uint64 // the last record that is in the file
	page int    // where the next one is
	open bool   // there may be a next one
}

func (p position) encode() []byte {
	b := append([]byte(nil), p.salt[:]...)
	b = binary.BigEndian.AppendUint64(b, p.seq)
	b = binary.BigEndian.AppendUint32(b, uint32(p.page))
	if p.open {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodePosition(b []byte) (position, error) {
	var p position
	if len(b) != saltSize+13 || b[saltSize+12] > 1 {
		return p, fmt.Errorf("where its log ends: %w", ErrDamaged)
	}
	copy(p.salt[:], b)
	b = b[saltSize:]
	p.seq, p.page, p.open = binary.BigEndian.Uint64(b), int(binary.BigEndian.Uint32(b[8:])), b[12] == 1
	if p.page < 1 || p.page > maxPages {
		return p, fmt.Errorf("where its log ends: %w", ErrDamaged)
	}
	return p, nil
}

// openLog opens the log at path, which belongs to a file that is at p (nil: at
// none yet), and gives what was written after that, in order. A new one gets so
// many pages, or fewer where there is no room for them. The file is locked: nobody else has the log.
func openLog(path string, p *position, pages int) (l *redoLog, later []change, err error) {
	l = &redoLog{page: 1}
	l.file, err = os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		if err = l.readHead(); err == nil && p != nil && p.salt == l.head.salt && p.page <= l.head.pages {
			l.seq, l.page = p.seq, p.page
			if p.open {
				later, err = l.replay()
			} else {
				// The file may be an older one that somebody has put back: what the
				// log has of those that came after it then must never be taken for
				// what comes behind it now.
				l.seq += 1<<16 + uint64(mathrand.Uint32N(1<<30))
			}
			if err == nil {
				return l, later, nil
			}
		} else if err == nil {
			err = errStrange
		}
	}
	switch {
	case p != nil && p.open && errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("its log %s is missing, and with it what was registered last; go on without by making an empty file of that name", path)
	case p != nil && p.open && errors.Is(err, errStrange):
		err = fmt.Errorf("%s is not its log, which has what was registered last; go on without by making it an empty file", path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errStrange), errors.Is(err, io.EOF):
		// None, none of ours, or one that is made empty: nothing of it is needed.
		err = l.create(path, pages)
		for errors.Is(err, unix.ENOSPC) && pages > minPages {
			pages = max(pages/4, minPages)
			err = l.create(path, pages)
		}
		if err == nil {
			return l, nil, nil
		}
	}
	if l.file != nil {
		l.file.Close()
	}
	return nil, nil, diskError(err)
}

// errStrange: not a log, or that of another file.
var errStrange = errors.New("not its log")

// readHead reads the first page. The error is io.EOF if the file is empty.
func (l *redoLog) readHead() error {
	var b [len(logMagic) + saltSize + 4]byte
	n, err := l.file.ReadAt(b[:], 0)
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return io.EOF
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case n < len(b) || string(b[:len(logMagic)]) != logMagic:
		return errStrange
	}
	h := logHead{pages: int(binary.BigEndian.Uint32(b[len(b)-4:]))}
	copy(h.salt[:], b[len(logMagic):])
	if h.pages < minPages || h.pages > maxPages {
		return errStrange
	}
	l.setHead(h)
	return nil
}

func (l *redoLog) setHead(h logHead) {
	l.head = h
	l.sum = crc32.Checksum(h.salt[:], castagnoli)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// create makes a log with a name of its own, in the place of what is there. Its
// pages are written once, since a file system has less to sync when those that
// are written are not new.
func (l *redoLog) create(path string, pages int) error {
	if l.file != nil {
		l.file.Close()
	}
	h := logHead{pages: pages}
	if _, err := rand.Read(h.salt[:]); err != nil {
		return err
	}
	*l = redoLog{page: 1}
	l.setHead(h)
	var err error
	if l.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	part := make([]byte, 64*logPage)
	copy(part, h.encode())
	for n, all := 0, pages+1; n < all; n += len(part) / logPage {
		part = part[:min(len(part), (all-n)*logPage)]
		if _, err := l.file.WriteAt(part, int64(n)*logPage); err != nil {
			return err
		}
		clear(part)
	}
	return l.file.Sync()
}

// replay reads the records from page on.
func (l *redoLog) replay() ([]change, error) {
	ring := make([]byte, l.head.pages*logPage)
	if _, err := l.file.ReadAt(ring, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var all []change
	for {
		at := l.page
		body, ok := l.record(ring, at)
		if !ok && at != 1 {
			at = 1
			body, ok = l.record(ring, at)
		}
		if !ok {
			return all, nil
		}
		l.seq++
		changes, err := decodeChanges(body, l.seq)
		if err != nil {
			return nil, fmt.Errorf("record %d of its log: %w", l.seq, err)
		}
		all = append(all, changes...)
		l.use(at, pagesOf(len(body)))
	}
}

// record is the content of the next record, if it begins at that page.
func (l *redoLog) record(ring []byte, page int) ([]byte, bool) {
	if page >= l.head.pages {
		return nil, false
	}
	b := ring[page*logPage:]
	length := uint64(binary.BigEndian.Uint32(b[8:]))
	if binary.BigEndian.Uint64(b) != l.seq+1 || logHeader+length > uint64(len(b)) {
		return nil, false
	}
	body := b[logHeader : logHeader+length]
	return body, binary.BigEndian.Uint32(b[12:]) == l.checksum(b[:12], body)
}

func (l *redoLog) checksum(head, body []byte) uint32 {
	return crc32.Update(crc32.Update(l.sum, castagnoli, head), castagnoli, body)
}

// pagesOf is how many pages a record with a body of n bytes takes.
func pagesOf(n int) int { return (logHeader + n + logPage - 1) / logPage }

// use says that a record of n pages begins at page.
func (l *redoLog) use(page, n int) {
	if page < l.page {
		l.used += l.head.pages - l.page // nothing begins there
	}
	l.used += n
	l.page = page + n
}

// place is where a record of n pages goes, 0 if there is no room for it now.
func (l *redoLog) place(n int) int {
	page, need := l.page, n
	if page+n > l.head.pages {
		page, need = 1, n+l.head.pages-l.page
	}
	if l.used+need > l.head.pages-1 {
		return 0
	}
	return page
}

// fits reports whether what encodes to n bytes has room, some time and now. What
// would take more than an eighth of the log is not for it.
func (l *redoLog) fits(n int) (ever, now bool) {
	ever = n <= l.head.pages*logPage/8
	return ever, ever && l.place(pagesOf(n)) > 0
}

// append writes the changes as the next record. When it returns nil, they are
// durable.
func (l *redoLog) append(body []byte) error {
	n := pagesOf(len(body))
	page := l.place(n)
	if page == 0 {
		return errors.New("the log is full")
	}
	l.encode(body)
	if _, err := l.file.WriteAt(l.buf, int64(page)*logPage); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return os.NewSyscallError("fdatasync", err)
	}
	l.seq++
	l.use(page, n)
	return nil
}

// encode makes the next record, in buf.
func (l *redoLog) encode(body []byte) {
	n := pagesOf(len(body)) * logPage
	l.buf = slices.Grow(l.buf[:0], n)[:n]
	binary.BigEndian.PutUint64(l.buf, l.seq+1)
	binary.BigEndian.PutUint32(l.buf[8:], uint32(len(body)))
	binary.BigEndian.PutUint32(l.buf[12:], l.checksum(l.buf[:12], body))
	clear(l.buf[logHeader+copy(l.buf[logHeader:], body):])
}

// at is where the log is now.
func (l *redoLog) at(open bool) position { return position{l.head.salt, l.seq, l.page, open} }

// appendChange encodes a change: the number of its bucket, with the highest bit
// for a deletion, the key and the value, each behind its length.
func appendChange(b []byte, bucket bucketID, key string, value []byte) []byte {
	code := byte(bucket)
	if value == nil {
		code |= 0x80
	}
	b = appendString(append(b, code), key)
	if value != nil {
		b = binary.AppendUvarint(b, uint64(len(value)))
		b = append(b, value...)
	}
	return b
}

func decodeChanges(b []byte, seq uint64) ([]change, error) {
	var all []change
	d := decoder{b: b}
	for len(d.b) > 0 {
		code := d.b[0]
		d.b = d.b[1:]
		c := change{bucket: bucketID(code & 0x7f), key: d.string(), seq: seq}
		if code&0x80 == 0 {
			c.value = append([]byte{}, d.string()...)
		}
		if d.bad || c.bucket >= buckets {
			return nil, ErrDamaged
		}
		all = append(all, c)
	}
	return all, nil
}
