package db

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"storefs/store"
)

// Registration is everything that becomes known in one transaction.
type Registration struct {
	// Infos are the paths that become valid. One that is valid already is left
	// as it is. Every reference must be valid or among Infos.
	Infos []store.Info
	// Successor, if set, is a new normal form.
	Successor *Successor
	// Outputs become known, each through its derivation.
	Outputs []KnownOutput
	// Modulos are the hashes of derivations that become known.
	Modulos []Modulo
	// Duration, if set, is how long a builder took.
	Duration *Duration
	// ClearFailures forgets why these goals failed.
	ClearFailures []store.Path
	// Patient, if it is not nil, reports whether it may wait some milliseconds
	// for others to share a commit with. It is asked once, and must be quick; who
	// would like to say something else later calls Hurry.
	Patient func() bool
	// Queued, if not nil, is called once, when whatever is registered from then on
	// comes after this: it may refer to this, and is refused if this is. It must
	// be quick.
	Queued func()
	// Still, if not nil, is asked in its turn, before the barrier, and once more if
	// that has failed: its error refuses the registration. It must be quick.
	Still interface{ Err() error }
	// Synced, if not nil, is called after the barrier, before the commit; more
	// than once if the commit is tried again. It must be quick.
	Synced func()
}

// Successor says that Closure is the normal form of Expr. Both must be valid.
type Successor struct{ Expr, Closure store.Path }

// Duration is how long the builder of Drv took.
type Duration struct {
	Drv  store.Path
	Time time.Duration
}

// Register registers r in one transaction, or nothing of it. Concurrent calls
// share a commit; each gets its own error. When it returns nil, r is on disk.
// The error wraps store.ErrNotValid when something that r refers to is not
// valid.
func (d *DB) Register(ctx context.Context, r Registration) error {
	p, err := d.plan(r)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	p.queue = write{ctx: ctx, barrier: len(r.Infos) > 0, synced: r.Synced, patient: r.Patient, queued: r.Queued, do: p.do}
	if err := d.queue(&p.queue); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	d.unwritten.forget(p.clear)
	return nil
}

// plan is a Registration in keys and values, made outside of the transaction.
type plan struct {
	db        *DB
	paths     []planned
	own       map[string]bool // bases of paths, if there are more than few
	expr      string
	closure   string
	outputs   []plannedOutput
	modulos   []plannedModulo
	drv, name string
	duration  time.Duration
	clear     []string
	// since is the state of the file in which the callers looked, each for
	// itself: see writer.hasNot.
	since       int
	unsucceeded bool // there was no normal form of expr
	still       interface{ Err() error }
	queue       write
	room        [few]planned // for paths: all is allocated in one piece
}

// few is how many paths most registrations have, at most.
const few = 4

type planned struct {
	base       string
	value      []byte // its record
	references []string
	absent     bool // it was not valid
}

func (d *DB) plan(r Registration) (*plan, error) {
	p := &plan{db: d, still: r.Still}
	p.paths = p.room[:0]
	if len(r.Infos) > few {
		p.paths = make([]planned, 0, len(r.Infos))
		p.own = make(map[string]bool, len(r.Infos))
	}
	for _, i := range r.Infos {
		base, err := d.base(i.Path)
		if err != nil {
			return nil, err
		}
		rec, err := d.record(i)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Path, err)
		}
		if p.has(base) {
			continue
		}
		if rec.registered == 0 {
			rec.registered = uint64(time.Now().Unix())
		}
		p.paths = append(p.paths, planned{base: base, value: rec.encode(), references: rec.references})
		if p.own != nil {
			p.own[base] = true
		}
	}
	var err error
	if s := r.Successor; s != nil {
		if p.expr, err = d.base(s.Expr); err != nil {
			return nil, err
		}
		if p.closure, err = d.base(s.Closure); err != nil {
			return nil, err
		}
	}
	if p.outputs, err = d.planOutputs(r.Outputs); err != nil {
		return nil, err
	}
	if p.modulos, err = d.planModulos(r.Modulos); err != nil {
		return nil, err
	}
	if t := r.Duration; t != nil {
		if p.drv, err = d.base(t.Drv); err != nil {
			return nil, err
		}
		p.name, p.duration = t.Drv.Name(), t.Time
	}
	if p.clear, err = d.bases(r.ClearFailures); err != nil {
		return nil, err
	}
	return p, d.view(p.look)
}

// has reports whether base is among the paths.
func (p *plan) has(base string) bool {
	if p.own != nil {
		return p.own[base]
	}
	for i := range p.paths {
		if p.paths[i].base == base {
			return true
		}
	}
	return false
}

// look asks for what is most probably not there, so that the committer need not.
func (p *plan) look(tx reader) error {
	p.since = tx.since
	if tx.hides != nil {
		p.since = -1 // what was seen is not what will be written over
	}
	for i := range p.paths {
		n := &p.paths[i]
		n.absent = !tx.has(bucketValid, n.base)
		// What is not valid has no normal form.
		p.unsucceeded = p.unsucceeded || n.absent && n.base == p.expr
	}
	if p.expr != "" && !p.unsucceeded {
		p.unsucceeded = !tx.has(bucketSuccessors, p.expr)
	}
	return nil
}

func (p *plan) do(w writer) error {
	if p.still != nil {
		if err := p.still.Err(); err != nil {
			return err
		}
	}
	if err := p.check(w.reader); err != nil {
		return err
	}
	return p.write(w)
}

// check is everything that can be refused; it writes nothing.
func (p *plan) check(tx reader) error {
	valid := func(base string) error {
		if p.has(base) || tx.has(bucketValid, base) {
			return nil
		}
		return fmt.Errorf("%s: %w", p.db.join(base), store.ErrNotValid)
	}
	for i := range p.paths {
		n := &p.paths[i]
		for _, ref := range n.references {
			if err := valid(ref); err != nil {
				return fmt.Errorf("%s refers to %w", p.db.join(n.base), err)
			}
		}
	}
	if p.expr != "" {
		for _, b := range [...]string{p.expr, p.closure} {
			if err := valid(b); err != nil {
				return fmt.Errorf("successor: %w", err)
			}
		}
	}
	for _, o := range p.outputs {
		if err := valid(o.drv); err != nil {
			return fmt.Errorf("output %s of %w", p.db.join(o.base), err)
		}
	}
	for _, m := range p.modulos {
		if err := valid(m.drv); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) write(w writer) error {
	for i := range p.paths {
		n := &p.paths[i]
		if !w.hasNot(bucketValid, n.base, n.absent, p.since) {
			continue
		}
		if err := w.putPath(n.base, n.value, n.references); err != nil {
			return err
		}
		w.batch.valid++
	}
	for _, o := range p.outputs {
		if err := putOutput(w, o); err != nil {
			return err
		}
	}
	for _, m := range p.modulos {
		if err := w.put(bucketModulo, m.drv, m.value); err != nil {
			return err
		}
	}
	if p.expr != "" {
		fresh := w.hasNot(bucketSuccessors, p.expr, p.unsucceeded, p.since)
		if err := putSuccessor(w, p.expr, p.closure, fresh); err != nil {
			return err
		}
	}
	if p.drv != "" {
		v := binary.BigEndian.AppendUint64(nil, uint64(p.duration))
		if err := w.put(bucketDurations, p.drv, v); err != nil {
			return err
		}
		for _, name := range []string{p.name, packageName(p.name)} {
			if err := w.put(bucketNameTimes, name, v); err != nil {
				return err
			}
		}
	}
	for _, b := range p.clear {
		if err := w.forget(bucketFailures, b); err != nil {
			return err
		}
	}
	return nil
}

// putPath writes a valid path with its back references.
func (w writer) putPath(base string, value []byte, references []string) error {
	if err := w.put(bucketValid, base, value); err != nil {
		return err
	}
	for _, ref := range references {
		if err := w.putPair(bucketReferrers, ref, base); err != nil {
			return err
		}
	}
	return nil
}

// forget deletes key if it is there: deleting nothing would still make a
// transaction out of nothing.
func (w writer) forget(bucket bucketID, key string) error {
	if !w.has(bucket, key) {
		return nil
	}
	return w.del(bucket, key)
}

// Replace changes what is known of a path that is valid: its content was
// replaced by another build of the same derivation. References must be valid.
func (d *DB) Replace(ctx context.Context, i store.Info) error {
	base, err := d.base(i.Path)
	if err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	rec, err := d.record(i)
	if rec.registered == 0 {
		rec.registered = uint64(time.Now().Unix())
	}
	if err == nil {
		err = d.update(ctx, true, func(w writer) error {
			old, err := w.record(base)
			if err != nil {
				return err
			}
			for _, ref := range rec.references {
				if !w.has(bucketValid, ref) {
					return fmt.Errorf("refers to %s: %w", d.join(ref), store.ErrNotValid)
				}
			}
			for _, ref := range old.references {
				if err := w.del(bucketReferrers, pair(ref, base)); err != nil {
					return err
				}
			}
			return w.putPath(base, rec.encode(), rec.references)
		})
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", i.Path, err)
	}
	return nil
}
