package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"storefs/event"
	"storefs/nar"
	"storefs/store"
)

// VerifyOptions says how much Verify does. The zero value compares the database
// with itself and with what is in real/, without reading contents.
type VerifyOptions struct {
	// Contents reads every object and compares its NAR hash.
	Contents bool
	// Repair, if set, makes a damaged object anew, in scratch. What it returns
	// takes the object's place; release, if not nil, is called afterwards.
	Repair func(ctx context.Context, damaged store.Info) (o Output, release func(), err error)
	// Replacing, if set, is called before the new one takes the place of the old, which
	// it does not after an error; what it returns is called afterwards, with whether it
	// did: it may have, and not be registered. Nobody can delete or make the object
	// meanwhile.
	Replacing func(ctx context.Context, old, made store.Info) (done func(replaced bool), err error)
	// Progress, if set, hears how many of how many paths were looked at.
	Progress func(done, total int)
}

// Problem is something that is not as it should be.
type Problem struct {
	Path     store.Path `json:"path"`
	Message  string     `json:"message"`
	Repaired bool       `json:"repaired,omitempty"`
}

// Verified counts what Verify found.
type Verified struct {
	Paths    int `json:"paths"`
	Problems int `json:"problems"`
	Repaired int `json:"repaired"`
}

// verifyChunk is how many paths are looked at between two questions to the
// database.
const verifyChunk = 1024

// Verify looks for valid paths that are not what was registered, and reports
// each problem, after the attempt to repair it. Its error is that of looking,
// not of what was found.
func (s *State) Verify(ctx context.Context, o VerifyOptions, report func(Problem)) (Verified, error) {
	v := verifier{state: s, options: o, report: report}
	if err := v.run(ctx); err != nil {
		return v.sum, fmt.Errorf("verify: %w", err)
	}
	return v.sum, nil
}

// VerifyPath does for one valid path what Verify does for all, and returns what
// is wrong with it, nil if nothing is. store.ErrNotValid.
func (s *State) VerifyPath(ctx context.Context, p store.Path, o VerifyOptions) (*Problem, error) {
	var found *Problem
	v := verifier{state: s, options: o, report: func(p Problem) { found = &p }}
	_, err := s.db.Info(p)
	if err == nil {
		err = v.path(ctx, p)
	}
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", p, err)
	}
	return found, nil
}

type verifier struct {
	state   *State
	options VerifyOptions
	report  func(Problem)
	sum     Verified
}

func (v *verifier) run(ctx context.Context) error {
	s := v.state
	err := s.db.Check(ctx, func(p store.Path, message string) {
		v.found(Problem{Path: p, Message: message})
	})
	if err != nil {
		return err
	}
	total, err := s.db.Count()
	if err != nil {
		return err
	}
	for after := ""; ; {
		entries, err := s.db.Names(after, verifyChunk)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			p, err := s.store.Join(e.Name)
			if err != nil {
				v.found(Problem{Path: store.Path(string(s.store) + "/" + e.Name), Message: err.Error()})
				continue
			}
			if err := v.path(ctx, p); err != nil {
				return err
			}
			v.sum.Paths++
			if v.options.Progress != nil {
				v.options.Progress(v.sum.Paths, max(total, v.sum.Paths))
			}
		}
		after = entries[len(entries)-1].Name
	}
}

func (v *verifier) found(p Problem) {
	v.sum.Problems++
	if p.Repaired {
		v.sum.Repaired++
	}
	v.report(p)
}

func (v *verifier) path(ctx context.Context, p store.Path) error {
	info, err := v.state.db.Info(p)
	if errors.Is(err, store.ErrNotValid) {
		return nil // deleted meanwhile
	}
	if err != nil {
		v.found(Problem{Path: p, Message: err.Error()})
		return nil
	}
	message, err := v.damage(ctx, info)
	if err != nil {
		return err
	}
	if message == "" {
		return v.unharmed(ctx, p)
	}
	// It may have been deleted, and even been built again, and not be damaged.
	info, message, err = v.again(ctx, p)
	if errors.Is(err, store.ErrNotValid) {
		return nil
	}
	if err != nil {
		return err
	}
	if message == "" {
		return v.unharmed(ctx, p)
	}
	problem := Problem{Path: p, Message: message}
	damage := v.noted(p, message)
	if v.options.Repair != nil {
		if err := v.repair(ctx, info); err != nil {
			if ctx.Err() != nil {
				return err
			}
			damage.Unrepaired = err.Error()
			problem.Message += "; not repaired: " + err.Error()
			if errors.Is(err, errBeaten) { // what is there now is not what was damaged
				v.found(problem)
				return nil
			}
		} else {
			problem.Repaired, damage.Repaired = true, time.Now()
		}
	}
	v.found(problem)
	if problem.Repaired {
		ctx = context.WithoutCancel(ctx)
	}
	if err := v.state.db.SetDamage(ctx, damage); err != nil && !errors.Is(err, store.ErrNotValid) {
		return err
	}
	return nil
}

// again looks once more, while nobody deletes or makes p, and gives what is
// registered of it then. Whoever repairs it needs the lock afterwards.
func (v *verifier) again(ctx context.Context, p store.Path) (store.Info, string, error) {
	unlock, err := v.state.Lock(ctx, []store.Path{p}, nil)
	if err != nil {
		return store.Info{}, "", err
	}
	defer unlock()
	info, err := v.state.db.Info(p)
	if err != nil {
		return store.Info{}, "", err
	}
	message, err := v.damage(ctx, info)
	if err != nil || message == "" {
		return info, message, err
	}
	// A normal form may go with what it is of, whose lock this is not.
	_, err = v.state.db.Info(p)
	return info, message, err
}

// noted is what there is to remember of damage: who noticed it first knows best
// which file it is in.
func (v *verifier) noted(p store.Path, message string) store.Damage {
	d, err := v.state.db.Damage(p)
	if err != nil || d == nil || !d.Repaired.IsZero() {
		return store.Damage{Path: p, Message: message, Found: time.Now()}
	}
	d.Unrepaired = ""
	return *d
}

// unharmed: what was noted as damaged and not as repaired was a false alarm, or
// somebody has mended it.
func (v *verifier) unharmed(ctx context.Context, p store.Path) error {
	if !v.options.Contents {
		return nil
	}
	d, err := v.state.db.Damage(p)
	if err != nil || d == nil || !d.Repaired.IsZero() {
		return err
	}
	return v.state.db.ClearDamage(ctx, p)
}

// damage says what is wrong with the object, "" if nothing is.
func (v *verifier) damage(ctx context.Context, info store.Info) (string, error) {
	path := v.state.Real(info.Path)
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return "it is missing", nil
	}
	if err != nil {
		return "", err
	}
	kind, err := kindOf(path)
	if err != nil {
		return err.Error(), nil
	}
	if kind != info.Kind && info.Kind != store.KindUnknown {
		return fmt.Sprintf("it is of the kind %s, %s was registered", kind, info.Kind), nil
	}
	if st.ModTime().Unix() != 1 || kind != store.KindSymlink && st.Mode().Perm() != 0o444 && st.Mode().Perm() != 0o555 {
		return fmt.Sprintf("its mode %s or its time %s is not that of a store object", st.Mode(), st.ModTime().UTC()), nil
	}
	if !v.options.Contents {
		return "", nil
	}
	sum, err := nar.HashPath(ctx, path)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return err.Error(), nil
	}
	if !sum.Hash.Equal(info.NarHash) {
		return fmt.Sprintf("its NAR has the hash %s, %s was registered", sum.Hash, info.NarHash), nil
	}
	if sum.Size != info.NarSize {
		return fmt.Sprintf("its NAR has %d bytes, %d were registered", sum.Size, info.NarSize), nil
	}
	return "", nil
}

// repair puts a new object in the place of a damaged one. Whoever has the old
// one open goes on reading it.
func (v *verifier) repair(ctx context.Context, info store.Info) error {
	s := v.state
	begun := s.since()
	o, release, err := v.options.Repair(ctx, info)
	if err != nil {
		return err
	}
	if release != nil {
		defer release()
	}
	if o.Info.Path != info.Path {
		return fmt.Errorf("the repair made %s: %w", o.Info.Path, store.ErrHashMismatch)
	}
	if o.Info.NarHash != info.NarHash && info.CA != "" {
		return fmt.Errorf("what was made has the hash %s, %s was registered: %w", o.Info.NarHash, info.NarHash, store.ErrHashMismatch)
	}
	// Only now: whatever made it may have held the lock meanwhile.
	unlock, err := s.Lock(ctx, []store.Path{info.Path}, nil)
	if err != nil {
		return err
	}
	defer unlock()
	done := func(bool) {}
	if v.options.Replacing != nil {
		if done, err = v.options.Replacing(ctx, info, o.Info); err != nil {
			return err
		}
	}
	replaced, err := s.replace(ctx, info, o, &begun)
	done(replaced)
	if err != nil {
		return diskError(err)
	}
	s.publish(event.Event{Kind: event.Deleted, Paths: []store.Path{info.Path}})
	s.publish(event.Event{Kind: event.Valid, Paths: []store.Path{info.Path}})
	return nil
}

// replace exchanges the object on disk and what is registered of it: builders
// need not be deterministic, and what was found out of the old one says nothing
// of the new one. Killed between the two, the object is damaged as it was before,
// or differs from what is registered, and is repaired the next time. So it is after an
// error if it was replaced nevertheless.
func (s *State) replace(ctx context.Context, old store.Info, o Output, begun *since) (replaced bool, err error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	// It may have been deleted while it was made anew, and even been built again.
	is, err := s.db.Info(old.Path)
	if err != nil {
		return false, err
	}
	if is.Registered != old.Registered || !is.NarHash.Equal(old.NarHash) {
		return false, fmt.Errorf("%s: %w", old.Path, errBeaten)
	}
	n := o.Info
	if n.NarHash.Equal(old.NarHash) {
		n = old
	}
	// And so may what it refers to have been.
	if missing, err := s.db.NotValid(baseNames(n.References)); err != nil {
		return false, err
	} else if len(missing) > 0 {
		return false, fmt.Errorf("what was made refers to %s: %w", missing[0], store.ErrNotValid)
	}
	if err := s.Touch(); err != nil {
		return false, err
	}
	s.era++
	s.roots.spoil(old.Path)
	// What is valid stays complete: the new object is on disk before it takes the
	// place of the old one.
	if err := s.syncObjects(); err != nil {
		return false, err
	}
	if err := begun.Err(); err != nil {
		return false, err
	}
	to := s.Real(old.Path)
	if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
		if err := rename(o.Scratch, to, o.Info.Kind); err != nil {
			return false, err
		}
	} else if err := exchange(o.Scratch, to, o.Info.Kind); err != nil {
		return false, err
	}
	if err := s.syncObjects(); err != nil {
		return true, err
	}
	if err := s.writeFiles(old.Path, o.Files); err != nil {
		return true, err
	}
	n.Registered = max(now(), old.Registered+1) // never that of the old one
	// A caller that goes away now changes nothing.
	return true, s.db.Replace(context.WithoutCancel(ctx), n)
}

// exchange swaps two objects; the damaged one ends in scratch, writable for its
// owner so that it could move.
func exchange(scratch, to string, kind store.Kind) error {
	for _, p := range []string{scratch, to} {
		if st, err := os.Lstat(p); err == nil && st.IsDir() {
			if err := os.Chmod(p, 0o755); err != nil {
				return err
			}
		}
	}
	err := unix.Renameat2(unix.AT_FDCWD, scratch, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = exchangeInSteps(scratch, to)
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: scratch, New: to, Err: err}
	}
	if kind != store.KindDirectory {
		return nil
	}
	// XFS gives a directory that is exchanged a new time.
	if err := setTimes(to); err != nil {
		return err
	}
	return os.Chmod(to, 0o555)
}

// exchangeInSteps is for file systems whose renames have no flags. Killed in the midst
// of it, there is no object, which is repaired the next time, too.
func exchangeInSteps(scratch, to string) error {
	aside := scratch + "-aside"
	if err := os.Rename(to, aside); err != nil {
		return err
	}
	if err := os.Rename(scratch, to); err != nil {
		return errors.Join(err, os.Rename(aside, to))
	}
	return os.Rename(aside, scratch)
}
