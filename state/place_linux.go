package state

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"storefs/db"
	"storefs/event"
	"storefs/integrity"
	"storefs/store"
	"storefs/tree"
)

// object is a canonical store object on its way into real/.
type object struct {
	info    store.Info
	scratch string // where it is; "": nowhere yet, it is text
	text    []byte
	files   *integrity.Files // nil: too small for a record of its files
	// only says that something depends on this very object, not on whatever
	// else may be valid under its name.
	only bool
	// lost says that it is valid already, but was not there: see mend.
	lost bool
}

// errBeaten: something else became valid meanwhile under the name of an object
// that is the only one that will do.
var errBeaten = errors.New("another build of it was faster")

// place makes objects valid, and whatever else is in r known, or does nothing, or does
// not know which: see db.ErrInDoubt. It refuses what was built of inputs that were
// replaced. An object whose path is valid already is left in scratch. The caller removes
// what is left there, and may do so once moved, if it is not nil, is called.
//
// The order is: scratch, rename, sync, register; a text is written to its place. A name in real/ means nothing
// to anybody before it is in the database, so that content and name can become
// durable by the same sync, which the database calls for once before each commit
// (syncObjects), for all that is registered in it. Interrupted at any point,
// what is in the database is complete on disk, and what is in real/ without being
// in the database is swept by the next owner. The hashes of the files are bound
// to the NAR hash: those of something that does not become valid do no harm.
func (s *State) place(ctx context.Context, objects []object, r db.Registration, of *Inputs, moved func()) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := of.Err(); err != nil {
		return err
	}
	paths := make([]store.Path, len(objects))
	for i, o := range objects {
		paths[i] = o.info.Path
	}
	unlock, err := s.placing.lock(ctx, baseNames(paths), nil)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.Touch(); err != nil {
		return err
	}

	var fresh []object
	seen := make(map[store.Path]bool, len(objects))
	for _, o := range objects {
		valid, err := s.db.Valid(o.info.Path)
		if err != nil {
			return err
		}
		if valid && o.only {
			return fmt.Errorf("%s: %w", o.info.Path, errBeaten)
		}
		if !valid && !seen[o.info.Path] {
			seen[o.info.Path] = true
			fresh = append(fresh, o)
		}
	}
	for _, o := range fresh {
		if o.files == nil {
			continue
		}
		if err := s.writeFiles(o.info.Path, o.files); err != nil {
			return err
		}
	}
	var placed []store.Path
	for _, o := range fresh {
		placed = append(placed, o.info.Path)
		if err = s.moveIn(o); err != nil {
			break
		}
		r.Infos = append(r.Infos, o.info)
	}
	if err == nil {
		if moved != nil {
			moved()
		}
		// What is renamed is as good as registered: a caller that goes away
		// now changes nothing.
		s.arrivals.add(r.Infos)
		err = s.db.Register(context.WithoutCancel(ctx), r)
		s.arrivals.remove(r.Infos)
	}
	if errors.Is(err, db.ErrInDoubt) {
		// What is not valid after all, the next owner sweeps.
		s.left.Store(true)
		return err
	}
	if err != nil {
		for _, p := range placed {
			if e := tree.RemoveAll(s.Real(p)); e != nil {
				s.left.Store(true)
				err = fmt.Errorf("%w (and %w)", err, e)
			}
		}
		return err
	}
	s.publish(event.Event{Kind: event.Valid, Paths: placed})
	return nil
}

// moveIn brings an object into real/, where nothing that is valid has its name.
func (s *State) moveIn(o object) error {
	to := s.Real(o.info.Path)
	if o.scratch == "" {
		if err := makeRoom(to, func() error { return writeCanonical(to, o.text) }); err != nil {
			return fmt.Errorf("write %s: %w", o.info.Path, diskError(err))
		}
		return nil
	}
	if err := makeRoom(to, func() error { return rename(o.scratch, to, o.info.Kind) }); err != nil {
		return fmt.Errorf("move %s into the store: %w", o.info.Path, diskError(err))
	}
	return nil
}

// makeRoom does what needs the name to be free, if necessary after the removal of
// what has it.
func makeRoom(to string, do func() error) error {
	err := do()
	if errors.Is(err, unix.EEXIST) {
		if err = tree.RemoveAll(to); err == nil {
			err = do()
		}
	}
	return err
}

// rename moves a store object to a name that nothing has. The kernel lets an
// ordinary user, and a root whose rights were taken away, give another parent to a
// directory only if he may write to it.
func rename(from, to string, kind store.Kind) error {
	if kind != store.KindDirectory || os.Geteuid() == 0 {
		err := renameNew(from, to)
		if kind != store.KindDirectory || !errors.Is(err, unix.EACCES) {
			return err
		}
	}
	if err := os.Chmod(from, 0o755); err != nil {
		return err
	}
	if err := renameNew(from, to); err != nil {
		return err
	}
	return os.Chmod(to, 0o555)
}

// moveOut moves whatever has a name in the store, be it no store object, to a name
// that nothing has. What cannot be moved, it removes: overlayfs, where a container has what
// came with its image, moves no directories of that (EXDEV), and a quota of a project,
// nothing of another one.
func moveOut(from, to string) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	kind := store.KindRegular
	if st.IsDir() {
		kind = store.KindDirectory
	}
	err = rename(from, to, kind)
	if errors.Is(err, unix.EXDEV) || errors.Is(diskError(err), store.ErrNoSpace) {
		return tree.RemoveAll(from)
	}
	return err
}

// renameNew fails with EEXIST where os.Rename would replace something.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Not every file system can do that in one step.
		if _, e := os.Lstat(to); e == nil {
			return unix.EEXIST
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
