package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"storefs/event"
	"storefs/integrity"
	"storefs/nar"
	"storefs/store"
)

// VerifyOptions says how much Verify does. The zero value compares the database
// with itself and with what is in real/, without reading contents.
type VerifyOptions struct {
	// Contents reads every object and compares its NAR hash and, in the same read, the
	// form of each file.
	Contents bool
	// Repair, if set, makes a damaged object anew, in scratch. What it returns
	// takes the object's place; release, if not nil, is called afterwards. It is not asked
	// for what has the right contents: that is copied.
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
	// FormOnly says that it contains what it should, as far as was looked.
	FormOnly bool `json:"-"`
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
// is wrong with it, nil if nothing is. Of links, which may be in other objects, it knows
// nothing. store.ErrNotValid.
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

	links  map[nar.FileID]*fileLinks // those of which some are not in the object
	unread bool                      // something could not be read: it may have links
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
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return v.linked(ctx)
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
	l, err := v.look(ctx, info)
	if err != nil {
		return err
	}
	if l.message != "" {
		// It may have been deleted, and even been built again, and not be damaged.
		info, l, err = v.again(ctx, p)
	}
	if errors.Is(err, store.ErrNotValid) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.message == "" {
		v.keep(p, l)
		return v.unharmed(ctx, p)
	}
	repaired, err := v.deal(ctx, info, l)
	if err == nil && !repaired {
		v.keep(p, l)
	}
	return err
}

// deal reports what is wrong with an object, after the attempt to repair it.
func (v *verifier) deal(ctx context.Context, info store.Info, l look) (repaired bool, err error) {
	p := info.Path
	problem := Problem{Path: p, Message: l.message, FormOnly: l.formOnly}
	damage := v.noted(p, l.message)
	if v.options.Repair != nil {
		if err := v.repair(ctx, info, l.formOnly); err != nil {
			if ctx.Err() != nil {
				return false, err
			}
			damage.Unrepaired = err.Error()
			problem.Message += "; not repaired: " + err.Error()
			if errors.Is(err, errBeaten) { // what is there now is not what was damaged
				v.found(problem)
				return false, nil
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
		return problem.Repaired, err
	}
	return problem.Repaired, nil
}

// again looks once more, while nobody deletes or makes p, and gives what is
// registered of it then. Whoever repairs it needs the lock afterwards.
func (v *verifier) again(ctx context.Context, p store.Path) (store.Info, look, error) {
	unlock, err := v.state.Lock(ctx, []store.Path{p}, nil)
	if err != nil {
		return store.Info{}, look{}, err
	}
	defer unlock()
	info, err := v.state.db.Info(p)
	if err != nil {
		return store.Info{}, look{}, err
	}
	l, err := v.look(ctx, info)
	if err != nil || l.message == "" {
		return info, l, err
	}
	// A normal form may go with what it is of, whose lock this is not.
	_, err = v.state.db.Info(p)
	return info, l, err
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

// look is what was found out of an object.
type look struct {
	message  string // what is wrong, "" if nothing is
	formOnly bool   // and that is its form
	links    map[nar.FileID]*fileLinks
	unread   bool // not all of it was read
}

// look looks at the object.
func (v *verifier) look(ctx context.Context, info store.Info) (look, error) {
	path := v.state.Real(info.Path)
	kind, err := kindOf(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return look{message: "it is missing"}, nil
	case errors.Is(err, store.ErrUnfit):
		return look{message: err.Error(), unread: true}, nil
	case err != nil:
		return look{}, err
	}
	if kind != info.Kind && info.Kind != store.KindUnknown {
		return look{message: fmt.Sprintf("it is of the kind %s, %s was registered", kind, info.Kind), unread: true}, nil
	}
	var f form
	if !v.options.Contents {
		what, err := nar.Form(path, f.options())
		if err != nil {
			return look{message: err.Error()}, nil
		}
		return look{message: strings.Join(what, ", "), formOnly: true}, nil
	}
	sum, err := nar.HashForm(ctx, path, f.options())
	if ctx.Err() != nil {
		return look{}, ctx.Err()
	}
	if integrity.Transient(err) { // it was not read, and is not to be repaired for that
		return look{}, err
	}
	l := look{links: f.links}
	switch {
	case err != nil:
		l.message, l.unread = err.Error(), true
	case !sum.Hash.Equal(info.NarHash):
		l.message = fmt.Sprintf("its NAR has the hash %s, %s was registered", sum.Hash, info.NarHash)
	case sum.Size != info.NarSize:
		l.message = fmt.Sprintf("its NAR has %d bytes, %d were registered", sum.Size, info.NarSize)
	default:
		l.message, l.formOnly = f.message(), true
	}
	return l, nil
}

// repair puts a new object in the place of a damaged one. Whoever has the old
// one open goes on reading it.
func (v *verifier) repair(ctx context.Context, info store.Info, formOnly bool) error {
	s := v.state
	begun := s.since()
	o, release, err := v.makeAnew(ctx, info, formOnly)
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

// makeAnew makes what takes the place of a damaged object. A change of the files
// themselves would change whatever else they are linked to, and who has them open.
func (v *verifier) makeAnew(ctx context.Context, info store.Info, formOnly bool) (o Output, release func(), err error) {
	if formOnly {
		o, release, err = v.state.copied(ctx, info)
		// It need not be readable, nor contain what it should if that was not looked at.
		if err == nil || ctx.Err() != nil || errors.Is(diskError(err), store.ErrNoSpace) {
			return o, release, diskError(err)
		}
		if _, err := v.state.db.Info(info.Path); err != nil {
			return Output{}, nil, err
		}
	}
	return v.options.Repair(ctx, info)
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
	} else if err := s.exchange(o.Scratch, to, o.Info.Kind); err != nil {
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
