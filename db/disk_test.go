package db

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fakeDisk is below a database: what of it would be there after a loss of power,
// which the kernel need not show, and the other way round. It fails at random.
type fakeDisk struct {
	path  string
	rand  *rand.Rand
	whole *os.File // bbolt's
	other *os.File // what assure has: whole, or a file that nobody can write to
	bad   *os.File

	mu      sync.Mutex
	calm    bool   // nothing fails
	rarity  int    // one in so many pages cannot be written
	db      []byte // what is durable
	pending []extent
	log     map[int]difference     // pages of the log
	still   func(do func(answers)) // calls do while nobody begins, or is answered
	journal *journal
	crashes []crash
	wanted  bool // a crash
}

// extent is what was written and not synced.
type extent struct {
	off int64
	b   []byte
}

// difference is what the kernel shows of a page, and the disk has in its place.
type difference struct{ shown, has []byte }

// answers are what callers know.
type answers map[string]fate

type fate int

const (
	unknown fate = iota
	present
	absent
)

func (f fate) String() string { return [...]string{"unknown", "present", "absent"}[f] }

// crash is a moment: what the kernel shows, and what the disk has.
type crash struct {
	answers         answers
	shown, shownLog []byte
	db, log         []byte
	pending         []extent
	differs         map[int]difference
	where           string
}

var longAgo = time.Unix(1, 0)

func (k *fakeDisk) chance(n int) bool { return !k.calm && k.rand.IntN(n) == 0 }

func (k *fakeDisk) put(e extent) {
	if grow := int(e.off) + len(e.b) - len(k.db); grow > 0 {
		k.db = append(k.db, make([]byte, grow)...)
	}
	copy(k.db[e.off:], e.b)
}

// synced: all that was written is durable.
func (k *fakeDisk) synced() {
	for _, e := range k.pending {
		k.put(e)
	}
	k.pending = nil
}

// some of what was written is durable, and the kernel takes the rest for it.
func (k *fakeDisk) lose() {
	for _, e := range k.pending {
		if k.rand.IntN(2) == 0 {
			k.put(e)
		}
	}
	k.pending = nil
}

// look finds out whether the pages that say what is in the file were written once
// more, and synced: nobody else changes the time of the file.
func (k *fakeDisk) look() {
	st, err := os.Stat(k.path)
	if err != nil {
		panic(err)
	}
	k.put(extent{st.Size(), nil})
	if st.ModTime().Equal(longAgo) {
		return
	}
	k.journal.note("the first pages are written again, and synced")
	k.synced()
	b := make([]byte, 2*os.Getpagesize())
	if _, err := k.bad.ReadAt(b, 0); err != nil {
		panic(err)
	}
	k.put(extent{0, b})
	k.age()
}

func (k *fakeDisk) age() {
	if err := os.Chtimes(k.path, longAgo, longAgo); err != nil {
		panic(err)
	}
}

// assurable says whether assure succeeds from now on.
func (k *fakeDisk) assurable(yes bool) {
	k.journal.note("assure would succeed: %v", yes)
	f := k.bad
	if yes {
		f = k.whole
	}
	if err := unix.Dup3(int(f.Fd()), int(k.other.Fd()), unix.O_CLOEXEC); err != nil {
		panic(err)
	}
}

// write is below bbolt.
func (k *fakeDisk) write(write writeAt, b []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.look()
	defer k.age()
	e := extent{off, bytes.Clone(b)}
	if off >= int64(2*os.Getpagesize()) {
		if k.chance(k.rarity) {
			k.journal.note("a page at %d cannot be written", off)
			return 0, []error{unix.EIO, unix.ENOSPC}[k.rand.IntN(2)]
		}
		k.journal.note("a page at %d is written", off)
		k.pending = append(k.pending, e)
		k.crash("among pages", nil, nil)
		return write(b, off)
	}
	k.assurable(!k.chance(2))
	if k.chance(8) {
		k.journal.note("the sync of the pages fails")
		k.lose()
		return 0, unix.EIO
	}
	k.crash("before a sync of pages", nil, nil)
	k.synced()
	n, err := write(b, off)
	k.pending = append(k.pending, e)
	k.journal.note("first page %d is written: %v", off, metaOf(e.b))
	k.crash("before the last sync", nil, nil)
	if k.chance(3) {
		k.journal.note("its sync fails")
		k.lose()
		return 0, unix.EIO
	}
	k.synced()
	k.journal.note("and synced")
	return n, err
}

// crash keeps this moment, sometimes.
func (k *fakeDisk) crash(where string, record []byte, pages []int) {
	if !k.wanted || k.rand.IntN(4) > 0 {
		return
	}
	k.wanted = false
	c := crash{where: where, pending: slices.Clone(k.pending), differs: maps.Clone(k.log)}
	k.journal.note("crash %s: what callers know", where)
	k.still(func(a answers) {
		// Records may be written beside this, of what needs no barrier: what is known
		// must not be older than the log, which may have a deletion since.
		c.answers = a
		var err error
		if c.shownLog, err = os.ReadFile(k.path + ".log"); err == nil {
			c.shown, err = os.ReadFile(k.path)
		}
		if err != nil {
			panic(err)
		}
	})
	k.journal.note("crash: what there is: %v", logOf(c.shownLog))
	c.log = bytes.Clone(c.shownLog)
	for p, d := range k.log {
		// What has been written there since was synced.
		if at := c.log[p*logPage : (p+1)*logPage]; bytes.Equal(at, d.shown) {
			copy(at, d.has)
		}
	}
	for i, p := range pages {
		if k.rand.IntN(4) > 0 {
			copy(c.log[p*logPage:], record[i*logPage:(i+1)*logPage])
		}
	}
	durable := k.db
	k.db = bytes.Clone(durable)
	k.lose()
	c.db, k.db, k.pending = k.db, durable, slices.Clone(c.pending)
	k.crashes = append(k.crashes, c)
}

// barrier is before each record: what becomes of that is decided here.
func (k *fakeDisk) barrier(d *DB, log, bad *os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.look()
	if k.chance(40) {
		return errFakeBarrier
	}
	if k.chance(2) {
		k.assurable(true)
	}
	l := d.file.log
	b := &d.file.batches[(l.seq+1)%2]
	body := b.body
	n := pagesOf(len(body))
	page := 0
	if ever, _ := l.fits(len(body)); ever && !b.settle && d.file.mixed && !d.file.doubt.Load() {
		page = l.place(n)
	}
	if page == 0 {
		k.journal.note("batch %d goes into the file", b.seq)
		return nil // it goes into the file
	}
	next := *l
	next.buf = nil
	next.encode(body)
	record := next.buf
	var pages []int
	for i := range n {
		pages = append(pages, page+i)
	}
	k.journal.note("batch %d goes to page %d of the log: %v", b.seq, page, bodyOf(bytes.Clone(body)))
	k.crash("before a record", record, pages)
	l.file = log
	if !k.chance(6) {
		return nil
	}
	// Of what it has written, the kernel shows all and the disk has some, or neither
	// has anything.
	k.journal.note("but that fails")
	l.file = bad
	was := make([]byte, n*logPage)
	if _, err := log.ReadAt(was, int64(page)*logPage); err != nil {
		panic(err)
	}
	if k.rand.IntN(2) == 0 {
		return nil
	}
	for i, p := range pages {
		has, shows := was[i*logPage:(i+1)*logPage], record[i*logPage:(i+1)*logPage]
		if d, ok := k.log[p]; ok && bytes.Equal(d.shown, has) {
			has = d.has
		}
		if k.rand.IntN(3) > 0 {
			has = shows
		}
		if _, err := log.WriteAt(shows, int64(p)*logPage); err != nil {
			panic(err)
		}
		k.log[p] = difference{bytes.Clone(shows), has}
	}
	return nil
}

var errFakeBarrier = errors.New("barrier")
