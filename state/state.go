// Package state owns a state directory: the store objects in real/, the
// database that says which of them are valid, scratch, logs and locks. Things
// become valid here and nowhere else: from scratch, synced, renamed into real/,
// and then registered in one transaction. It builds nothing and fetches nothing.
package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"storefs/db"
	"storefs/event"
	"storefs/store"
)

// Options of Open. The zero value will do.
type Options struct {
	// Events, if set, hears which paths become valid and which are deleted.
	Events *event.Bus
	// Command is what the owner file says: who holds the state, for the
	// message that another one gets. By default, the program's name.
	Command string
	// LockTimeout is how long to wait for another owner to end.
	LockTimeout time.Duration
}

// State is an open state directory, which this process owns until Close. All
// methods may be called concurrently; none may be called after Close.
type State struct {
	dir    string
	store  store.Dir
	db     *db.DB
	events *event.Bus
	real   *os.File   // real/, for syncs
	locked sliceLocks // of locks/outputs, for locks between processes
	exprs  exprCache
	texts  sync.Pool // of *[]byte: room to read expressions into

	// gate is held shared by whoever makes paths valid, between the question
	// whether they are and the answer in the database, and alone by whoever
	// takes validity away.
	gate sync.RWMutex
	era  uint64 // changed by whoever has the gate alone: see Inputs
	// placing are the names in real/ that somebody works on.
	placing  keyedMutex
	arrivals arrivals
	lost     atomic.Pointer[error] // why the last sync failed that did: see since
	roots    temporaryRoots
	locks    keyedMutex
	scratch  atomic.Uint64

	marking sync.Mutex
	mark    string      // what the database says of real/, "" while it is changed
	unclean atomic.Bool // mark is "", as it will be until Close
	left    atomic.Bool // something in real/ may not be valid: for the next owner to sweep

	swept    chan struct{} // closed when real/ holds what is valid, and nothing else
	sweepErr error         // why not; written before swept is closed
}

// InUseError says who holds a state directory. It is store.ErrInUse.
type InUseError struct {
	Dir     string
	Command string // "" if that is not known
	PID     int
}

func (e *InUseError) Error() string {
	if e.Command == "" {
		return fmt.Sprintf("state %s: %s", e.Dir, store.ErrInUse)
	}
	if e.PID == 0 {
		return fmt.Sprintf("state %s: in use by %s", e.Dir, e.Command)
	}
	return fmt.Sprintf("state %s: in use by %s (pid %d)", e.Dir, e.Command, e.PID)
}

// Unwrap is store.ErrInUse.
func (e *InUseError) Unwrap() error { return store.ErrInUse }

// Open takes the state directory over: it becomes its owner, or fails with an
// *InUseError; and it removes what an owner before it left unfinished, as far
// as that takes long while the state is in use: see Swept.
func Open(dir string, opts Options) (*State, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	s := &State{dir: dir, store: c.Store, events: opts.Events, swept: make(chan struct{})}
	if err := s.checkLayout(); err != nil {
		return nil, fmt.Errorf("state %s: %w", dir, err)
	}
	s.db, err = db.Open(s.path("db.bolt"), c.Store, db.Options{LockTimeout: opts.LockTimeout, Barrier: s.syncObjects})
	if errors.Is(err, store.ErrInUse) {
		return nil, Owner(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", dir, err)
	}
	if err := s.takeOver(opts.Command); err != nil {
		err = fmt.Errorf("state %s: %w", dir, err)
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

func (s *State) takeOver(command string) error {
	var err error
	if s.real, err = os.Open(s.path("real")); err != nil {
		return err
	}
	writeOwner(s.path("owner"), command)
	if s.locked.file, err = os.OpenFile(s.path("locks", lockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return errors.Join(err, s.real.Close())
	}
	left, err := s.sweep()
	if err != nil {
		return errors.Join(err, s.real.Close(), s.locked.file.Close())
	}
	if !left {
		close(s.swept)
		return nil
	}
	go func() {
		defer close(s.swept)
		s.sweepErr = s.sweepStore()
	}()
	return nil
}

// Settle does what of Close takes longest, beside what else an owner does at its end:
// the state is used no more.
func (s *State) Settle() error {
	if err := s.Swept(); err != nil {
		return err
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	return s.markClean()
}

// Close leaves the state in order and lets another owner in. It waits for
// registrations that have begun, and for Swept.
func (s *State) Close() error {
	err := s.Settle()
	s.gate.Lock()
	defer s.gate.Unlock()
	// The name of the owner goes first: while the database is locked nobody
	// else can have written it.
	if e := os.Remove(s.path("owner")); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	err = errors.Join(err, s.db.Close(), s.real.Close(), s.locked.file.Close())
	if err != nil {
		return fmt.Errorf("close state %s: %w", s.dir, err)
	}
	return nil
}

// Dir is the state directory, absolute.
func (s *State) Dir() string { return s.dir }

// Store is the store directory.
func (s *State) Store() store.Dir { return s.store }

// DB is the database. Whatever makes paths valid or invalid goes through the
// methods of State instead.
func (s *State) DB() *db.DB { return s.db }

// RealDir is the directory that holds the store objects.
func (s *State) RealDir() string { return s.path("real") }

// Real is where the object p is, or would be, on disk.
func (s *State) Real(p store.Path) string { return s.path("real", p.Base()) }

// Builds is the directory for scratch. It is on the same file system as the
// store objects, and emptied by Open.
func (s *State) Builds() string { return s.path("builds") }

// Logs is the directory of the build logs.
func (s *State) Logs() string { return s.path("log") }

// Log is where the log of drv's builder is, or would be: as in Nix, but not
// compressed.
func (s *State) Log(drv store.Path) string {
	b := drv.Base()
	return s.path("log", "drvs", b[:2], b[2:])
}

// Roots is the directory of the garbage collector's roots.
func (s *State) Roots() string { return s.path("roots") }

// Socket is where the owner listens.
func (s *State) Socket() string { return s.path("socket") }

func (s *State) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// newScratch is a name in builds/ that nothing has.
func (s *State) newScratch(what string) string {
	return s.path("builds", fmt.Sprintf("%s-%d", what, s.scratch.Add(1)))
}

func (s *State) publish(e event.Event) {
	if s.events != nil && len(e.Paths) > 0 {
		s.events.Publish(e)
	}
}
