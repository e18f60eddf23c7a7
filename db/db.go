// Package db keeps what the store knows: one bbolt file, with a log of what is
// not in it yet, that maps valid paths to their info, derivations to their normal
// forms, outputs to the derivations that make them, and so on. It touches no file
// but these two: whether a valid path is really on disk is the business of package
// state.
package db

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"storefs/store"
)

const (
	// initialMmapSize is address space, not memory: a map that need not move while
	// the file grows lets writers commit beside readers of long standing, which
	// otherwise hold the old map and block the writer.
	initialMmapSize = 4 << 30
	// smallMmapSize is what it is where a process may not have as much (ulimit -v).
	smallMmapSize = 256 << 20
)

// ErrClosed: the database was closed while, or before, it was asked.
var ErrClosed = errors.New("the database is closed")

// ErrDamaged: the file is not a database of ours, or no longer a whole one.
var ErrDamaged = errors.New("damaged database")

// ErrInDoubt: what was to be written is on disk or is not, and the next Open will
// tell which.
var ErrInDoubt = errors.New("it may be on disk nevertheless")

// ErrVersion: the file was written by another version of the program.
var ErrVersion = errors.New("another version's database")

// Options of Open. The zero value opens an existing database and fails at once
// when another process has it.
type Options struct {
	// LockTimeout is how long to wait for another process that has the file.
	LockTimeout time.Duration
	// Create makes the file if there is none.
	Create bool
	// Barrier, if it is set, runs once before each commit that makes paths
	// valid: it makes durable what the paths stand for. Its error fails the
	// registrations of that commit.
	Barrier func() error

	rest   time.Duration // see restTime; 0: that
	pages  int           // see logPages; 0: that
	mapped int           // see initialMmapSize; 0: that
}

// DB is an open database. All methods may be called concurrently; none may be
// called after Close.
type DB struct {
	views
	path    string
	dir     store.Dir
	barrier func() error

	mu       sync.Mutex
	pending  []*write
	hasty    bool   // something in pending is not patient
	next     *batch // while a record is being written, that behind it
	prepared int    // how many writes next has
	uses     uses
	closing  bool
	wake     chan struct{} // one token: there may be something in pending
	stopped  chan struct{} // closed when the committer has returned

	unwritten unwritten

	preparing sync.Mutex // whoever has it writes into next; taken before mu

	file      *file
	lastError error // of the committer; read it after stopped
}

// Open opens the database file at path, of the store at dir. The error wraps
// store.ErrInUse when another process keeps the file beyond
// Options.LockTimeout, ErrVersion, or ErrDamaged.
func Open(path string, dir store.Dir, opts Options) (*DB, error) {
	mapped := cmp.Or(opts.mapped, initialMmapSize)
	b, disk, err := openMapped(path, opts, mapped)
	if errors.Is(err, unix.ENOMEM) {
		mapped = smallMmapSize
		if b, disk, err = openMapped(path, opts, mapped); errors.Is(err, unix.ENOMEM) {
			err = fmt.Errorf("%w: it needs %d MiB of address space (ulimit -v)", err, mapped>>20)
		}
	}
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) && pathErr.Path == path {
		err = pathErr.Err // the path is named once
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	d := newDB(b, disk, path, dir, opts)
	d.mapped = int64(mapped)
	err = guard(func() error { return d.prepare(opts.Create) })
	if err == nil {
		err = d.restore(cmp.Or(opts.rest, restTime), cmp.Or(opts.pages, logPages))
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	go d.commitLoop()
	return d, nil
}

func newDB(b *bolt.DB, disk *os.File, path string, dir store.Dir, opts Options) *DB {
	return &DB{
		views: views{bolt: b, disk: disk, mapped: initialMmapSize}, path: path, dir: dir, barrier: opts.Barrier,
		uses:    uses{used: make(map[string]int64)},
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
	}
}

func openFile(path string, opts Options) (*bolt.DB, *os.File, error) {
	return openMapped(path, opts, initialMmapSize)
}

func openMapped(path string, opts Options, mapped int) (*bolt.DB, *os.File, error) {
	if !opts.Create {
		if err := checkFile(path); err != nil {
			return nil, nil, err
		}
	}
	timeout := opts.LockTimeout
	if timeout <= 0 {
		timeout = time.Nanosecond // 0 would wait for ever
	}
	var file *os.File
	var b *bolt.DB
	err := guard(func() (err error) {
		b, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:         timeout,
			InitialMmapSize: mapped,
			// Reading the free list back costs seconds at a million paths if it
			// is not kept in the file; as an array it commits three times
			// faster than as a map.
			FreelistType:   bolt.FreelistArrayType,
			NoFreelistSync: false,
			NoStatistics:   true,
			OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
				if !opts.Create {
					flag &^= os.O_CREATE
				}
				var err error
				file, err = os.OpenFile(name, flag, mode)
				return file, err
			},
		})
		return err
	})
	switch {
	case err == nil:
		return b, file, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, nil, store.ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, ErrDamaged) && file != nil:
		// bbolt panicked on the way and left the file open and locked.
		file.Close()
	}
	return nil, nil, diskError(err)
}

// Close writes what is pending and closes the file. It waits for the committer
// and for readers.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return nil
	}
	d.closing = true
	d.mu.Unlock()
	d.wakeCommitter()
	<-d.stopped
	if d.stuck.Load() {
		// bbolt would wait for its locks for ever. The file is closed, and
		// unlocked, when the process ends.
		return fmt.Errorf("close %s: %w", d.path, ErrDamaged)
	}
	d.views.begin()
	// What could not be written into the file is in the log: nothing is lost.
	if err := errors.Join(d.lastError, d.file.log.file.Close(), d.bolt.Close()); err != nil {
		return fmt.Errorf("close %s: %w", d.path, err)
	}
	return nil
}

// restore opens the log, and writes into bbolt's file what only the log has, if
// there is room for it.
func (d *DB) restore(rest time.Duration, pages int) error {
	var at *position
	var last uint64 // transaction of the file
	err := guard(func() error {
		return d.bolt.View(func(tx *bolt.Tx) error {
			last = uint64(tx.ID())
			v := bucketMeta.in(tx).Get([]byte(keyLog))
			if v == nil {
				return nil
			}
			p, err := decodePosition(v)
			at = &p
			return err
		})
	})
	if err != nil {
		return err
	}
	// Where a link leads, the log is as well.
	path, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return err
	}
	log, later, err := openLog(path+".log", at, pages)
	if err != nil {
		return err
	}
	// What the last owner has not seen durable may be what a sync has failed of, or was
	// to come, and another tree on disk, which nothing may be written over. Where there
	// is no room for that, it can be read.
	unsure := false
	if at != nil && at.open || log.signed() != last {
		err := diskError(assure(d.disk))
		if unsure = errors.Is(err, store.ErrNoSpace); err != nil && !unsure {
			log.file.Close()
			return err
		}
	}
	d.file = newFile(&d.views, log, rest)
	d.file.last = last
	d.over.Store(&overlay{layers: [2]*layer{new(layer)}, seq: log.seq})
	d.file.mixed = at != nil && at.open && at.salt == log.head.salt
	if d.file.unsure = unsure; unsure {
		d.file.doubt.Store(true)
		d.file.arm(retryTime)
	}
	missed := at != nil && at.open && !d.file.mixed // its log was made an empty file
	if len(later) == 0 && !missed {
		return nil
	}
	all := new(layer)
	for _, c := range later {
		all.set(c.bucket, c.key, c.value, c.seq)
	}
	r := d.file.apply([2]*layer{all}, log.at(true), nil)
	if errors.Is(diskError(r.err), store.ErrNoSpace) {
		// It can be read, and things be deleted: they lie over the file until there
		// is room again.
		d.over.Store(&overlay{layers: [2]*layer{all}, seq: log.seq})
		d.file.arm(retryTime)
		return nil
	}
	if r.err != nil {
		log.file.Close()
		return r.err
	}
	// That the log is a new one is in the file at once: the next owner would look
	// for the other one.
	d.file.mixed, d.file.last = true, uint64(r.tx)
	log.used = 0
	return nil
}

// Dir is the store directory whose paths the database holds.
func (d *DB) Dir() store.Dir { return d.dir }

// guard turns the panics by which bbolt answers a damaged file, and the faults
// of a file that is shorter than its map, into errors.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			text, _, _ := strings.Cut(fmt.Sprint(r), "\n")
			err = fmt.Errorf("%w: %s", ErrDamaged, text)
		}
	}()
	return f()
}

// base is the key of p: its last component.
func (d *DB) base(p store.Path) (string, error) {
	b, ok := strings.CutPrefix(string(p), string(d.dir))
	if !ok || len(b) < 2 || b[0] != '/' || strings.IndexByte(b[1:], '/') >= 0 || strings.IndexByte(b, 0) >= 0 {
		return "", fmt.Errorf("%q is not in the store %s: %w", p, d.dir, store.ErrBadPath)
	}
	return b[1:], nil
}

func (d *DB) bases(paths []store.Path) ([]string, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	out := make([]string, len(paths))
	for i, p := range paths {
		b, err := d.base(p)
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}

// join is the inverse of base.
func (d *DB) join(base string) store.Path { return store.Path(string(d.dir) + "/" + base) }
