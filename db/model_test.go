package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"storefs/store"
)

// model is what the database should hold, as plain maps.
type model struct {
	valid    map[store.Path]store.Info
	succ     map[store.Path]store.Path
	subs     map[store.Path][]store.Path
	makers   map[store.Path]map[store.Path]string // output → derivation → name
	current  map[store.Path]store.Path            // output → derivation that made it known last
	declared map[store.Path]store.Kind
	kept     map[store.Path]store.Kind // kinds of outputs that were deleted
}

func newModel() *model {
	return &model{
		valid: map[store.Path]store.Info{}, succ: map[store.Path]store.Path{}, subs: map[store.Path][]store.Path{},
		makers: map[store.Path]map[store.Path]string{}, current: map[store.Path]store.Path{},
		declared: map[store.Path]store.Kind{}, kept: map[store.Path]store.Kind{},
	}
}

func (m *model) register(r Registration) bool {
	next := maps.Clone(m.valid)
	for _, i := range r.Infos {
		if _, ok := next[i.Path]; !ok {
			next[i.Path] = i
		}
	}
	valid := func(paths ...store.Path) bool {
		for _, p := range paths {
			if _, ok := next[p]; !ok {
				return false
			}
		}
		return true
	}
	for _, i := range r.Infos {
		if !valid(i.References...) {
			return false
		}
	}
	if s := r.Successor; s != nil && !valid(s.Expr, s.Closure) {
		return false
	}
	for _, o := range r.Outputs {
		if !valid(o.Drv) {
			return false
		}
	}
	m.valid = next
	if s := r.Successor; s != nil {
		m.succ[s.Expr] = s.Closure
	}
	for _, o := range r.Outputs {
		if m.makers[o.Path] == nil {
			m.makers[o.Path] = map[store.Path]string{}
		}
		m.makers[o.Path][o.Drv] = o.Name
		m.current[o.Path] = o.Drv
		if o.Kind != store.KindUnknown {
			m.declared[o.Path] = o.Kind
		}
	}
	return true
}

func (m *model) predecessors(c store.Path) []store.Path {
	var out []store.Path
	for e, s := range m.succ {
		if s == c {
			out = append(out, e)
		}
	}
	slices.Sort(out)
	return out
}

func (m *model) referrers(p store.Path) []store.Path {
	var out []store.Path
	for _, i := range m.valid {
		if slices.Contains(i.References, p) {
			out = append(out, i.Path)
		}
	}
	slices.Sort(out)
	return out
}

func (m *model) delete(paths []store.Path) ([]store.Path, bool) {
	gone := map[store.Path]bool{}
	for _, p := range paths {
		if _, ok := m.valid[p]; !ok {
			return nil, false
		}
		gone[p] = true
	}
	for before := -1; before != len(gone); {
		before = len(gone)
		for p := range maps.Clone(gone) {
			for _, r := range m.referrers(p) {
				if len(m.predecessors(r)) > 0 {
					gone[r] = true
				}
			}
			c, ok := m.succ[p]
			mine := !slices.ContainsFunc(m.predecessors(c), func(e store.Path) bool { return !gone[e] })
			if ok && mine && len(m.referrers(c)) == 0 {
				gone[c] = true
			}
		}
	}
	for p := range gone {
		for _, r := range m.referrers(p) {
			if !gone[r] {
				return nil, false
			}
		}
	}
	for p := range gone {
		if _, ok := m.makers[p]; ok {
			m.kept[p] = m.valid[p].Kind
		}
		delete(m.valid, p)
		delete(m.succ, p)
		for _, e := range m.predecessors(p) {
			delete(m.succ, e)
		}
		for of, list := range m.subs {
			m.subs[of] = slices.DeleteFunc(slices.Clone(list), func(e store.Path) bool { return e == p })
		}
	}
	for _, p := range slices.Sorted(maps.Keys(gone)) {
		m.forgetMaker(p)
	}
	return slices.Sorted(maps.Keys(gone)), true
}

func (m *model) forgetMaker(drv store.Path) {
	for o, by := range m.makers {
		if _, ok := by[drv]; !ok {
			continue
		}
		delete(by, drv)
		if len(by) == 0 {
			delete(m.makers, o)
			delete(m.current, o)
			delete(m.declared, o)
			delete(m.kept, o)
		} else if m.current[o] == drv {
			m.current[o] = slices.Min(slices.Collect(maps.Keys(by)))
		}
	}
}

// machine runs the same operations on a database and on a model.
type machine struct {
	rest  time.Duration
	file  string
	db    *DB
	model *model
	paths []store.Path
}

func (m *machine) path(t *rapid.T, label string) store.Path {
	return rapid.SampledFrom(m.paths).Draw(t, label)
}

func (m *machine) pathSet(t *rapid.T, label string, atMost int) []store.Path {
	p := rapid.SliceOfNDistinct(rapid.SampledFrom(m.paths), 0, atMost, rapid.ID[store.Path]).Draw(t, label)
	slices.Sort(p)
	return p
}

func (m *machine) register(t *rapid.T) {
	var r Registration
	for _, p := range m.pathSet(t, "paths", 4) {
		refs := m.pathSet(t, "refs", 2)
		r.Infos = append(r.Infos, store.Info{
			Path: p, Kind: rapid.SampledFrom(kinds[1:]).Draw(t, "kind"), NarSize: int64(len(refs)),
			NarHash: store.HashOf(store.SHA256, []byte(fmt.Sprint(p, refs))), References: refs, Registered: 1,
		})
	}
	if rapid.Bool().Draw(t, "successor") {
		// Few closures, so that some are the normal form of several.
		r.Successor = &Successor{m.path(t, "expr"), rapid.SampledFrom(m.paths[:2]).Draw(t, "closure")}
	}
	if rapid.Bool().Draw(t, "outputs") {
		drv := m.path(t, "drv")
		for i, p := range m.pathSet(t, "outputs", 2) {
			kind := rapid.SampledFrom(kinds[:]).Draw(t, "declared")
			r.Outputs = append(r.Outputs, KnownOutput{Path: p, Drv: drv, Name: fmt.Sprint("o", i), Kind: kind})
		}
	}
	err := m.db.Register(context.Background(), r)
	ok := m.model.register(r)
	if ok != (err == nil) || err != nil && !errors.Is(err, store.ErrNotValid) {
		t.Fatalf("register %+v: error %v, the model says %v", r, err, ok)
	}
}

func (m *machine) delete(t *rapid.T) {
	paths := m.pathSet(t, "doomed", 3)
	got, err := m.db.Delete(context.Background(), paths...)
	want, ok := m.model.delete(paths)
	if ok != (err == nil) || err != nil && !errors.Is(err, store.ErrNotValid) && !errors.Is(err, store.ErrReferenced) {
		t.Fatalf("delete %v: error %v, the model says %v", paths, err, ok)
	}
	if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("delete %v: %s", paths, d)
	}
}

func (m *machine) substitute(t *rapid.T) {
	p, e := m.path(t, "path"), m.path(t, "expr")
	list := slices.DeleteFunc(slices.Clone(m.model.subs[p]), func(x store.Path) bool { return x == e })
	if rapid.Bool().Draw(t, "add") {
		err := m.db.AddSubstitute(context.Background(), p, e)
		if _, ok := m.model.valid[e]; ok != (err == nil) {
			t.Fatalf("add substitute: %v", err)
		} else if ok {
			m.model.subs[p] = append([]store.Path{e}, list...)
		}
		return
	}
	err := m.db.RemoveSubstitute(context.Background(), p, e)
	if had := slices.Contains(m.model.subs[p], e); had != (err == nil) {
		t.Fatalf("remove substitute: %v", err)
	}
	m.model.subs[p] = list
}

func (m *machine) reopen(t *rapid.T) {
	if err := m.db.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.db, err = Open(m.file, testDir, Options{rest: m.rest}); err != nil {
		t.Fatal(err)
	}
}

// kill goes on with what is on disk while the database is open.
func (m *machine) kill(t *rapid.T) {
	if m.rest < time.Hour {
		t.Skip("something may be written just now")
	}
	for _, name := range []string{m.file, m.file + ".log"} {
		if err := copyData(name, name+".killed"); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{m.file, m.file + ".log"} {
		if err := os.Rename(name+".killed", name); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if m.db, err = Open(m.file, testDir, Options{rest: m.rest}); err != nil {
		t.Fatal(err)
	}
}

// copyData copies a file with its holes: most of bbolt's is one, and the race detector
// takes long for many bytes at once.
func copyData(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for end := int64(0); ; {
		data, err := in.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			end, err = in.Seek(data, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, end-data))
		}
		if err != nil {
			return err
		}
	}
	size, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return out.Truncate(size)
}

// check asks the database everything.
func (m *machine) check(t *rapid.T) {
	same := func(what string, want, got any, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%s: %s", what, d)
		}
	}
	n, err := m.db.Count()
	same("count", len(m.model.valid), n, err)
	var names []Entry
	for _, p := range slices.Sorted(maps.Keys(m.model.valid)) {
		names = append(names, Entry{p.Base(), m.model.valid[p].Kind})
	}
	got, err := m.db.Names("", 1000)
	same("names", names, got, err)
	for i, p := range m.paths {
		m.checkPath(p, same)
		if i > 0 && len(names) > 2 {
			rest, err := m.db.Names(names[0].Name, 1)
			same("the second name", names[1:2], rest, err)
		}
	}
	err = m.db.Check(context.Background(), func(p store.Path, message string) { t.Fatalf("%s: %s", p, message) })
	same("check", nil, nil, err)
}

func (m *machine) checkPath(p store.Path, same func(what string, want, got any, err error)) {
	want, valid := m.model.valid[p]
	info, err := m.db.Info(p)
	if !valid && errors.Is(err, store.ErrNotValid) {
		err = nil
	}
	same("info of "+string(p), want, info, err)
	refs, err := m.db.Referrers(p)
	same("referrers", m.model.referrers(p), refs, err)
	succ, _, err := m.db.Successor(p)
	same("successor", m.model.succ[p], succ, err)
	preds, err := m.db.Predecessors(p)
	same("predecessors", m.model.predecessors(p), preds, err)
	subs, err := m.db.Substitutes(p)
	same("substitutes", m.model.subs[p], subs, err)
	derivers, err := m.db.Derivers(p)
	same("derivers", slices.Sorted(maps.Keys(m.model.makers[p])), derivers, err)

	var known Known
	if drv, ok := m.model.current[p]; ok {
		d := m.model.declared[p]
		known = Known{Drv: drv, Output: m.model.makers[p][drv], Declared: d, Kind: cmp.Or(d, want.Kind, m.model.kept[p])}
	}
	k, err := m.db.Known(p)
	if known.Drv == "" && errors.Is(err, store.ErrUnknown) {
		err = nil
	}
	same("known "+string(p), known, k, err)
	if !valid {
		return
	}
	closure, err := m.db.Requisites([]store.Path{p})
	var paths []store.Path
	for _, i := range closure {
		paths = append(paths, i.Path)
	}
	same("requisites", m.requisites(p), paths, err)
}

func (m *machine) requisites(p store.Path) []store.Path {
	seen := map[store.Path]bool{}
	var visit func(store.Path)
	visit = func(p store.Path) {
		if !seen[p] {
			seen[p] = true
			for _, r := range m.model.valid[p].References {
				visit(r)
			}
		}
	}
	visit(p)
	return slices.Sorted(maps.Keys(seen))
}

// memoryDir is where many files can be synced that need not outlive the machine.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "storefs-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestModel(t *testing.T) {
	var paths []store.Path
	for i := range 8 {
		paths = append(paths, testPath(t, fmt.Sprint("p", i)))
	}
	slices.Sort(paths)
	dir := memoryDir(t)
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{file: filepath.Join(dir, "db.bolt"), model: newModel(), paths: paths}
		var err error
		// What is written comes into the file at once, or when it is closed.
		m.rest = rapid.SampledFrom([]time.Duration{1, time.Hour}).Draw(t, "rest")
		if m.db, err = Open(m.file, testDir, Options{Create: true, rest: m.rest, pages: 16}); err != nil {
			t.Fatal(err)
		}
		defer func() {
			m.db.Close()
			os.Remove(m.file)
			os.Remove(m.file + ".log")
		}()
		t.Repeat(map[string]func(*rapid.T){
			"":           m.check,
			"register":   m.register,
			"delete":     m.delete,
			"substitute": m.substitute,
			"reopen":     m.reopen,
			"kill":       m.kill,
		})
	})
}
