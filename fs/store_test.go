package fs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/fs"
	"storefs/store"
)

// fakeStore is a store in memory, with its objects in a real directory, and a
// realiser that makes them after a delay. Callers of one name share one
// realisation, which goes on when they have gone.
type fakeStore struct {
	real string

	mu      sync.Mutex
	valid   map[string]store.Kind
	known   map[string]*recipe
	running map[string]*build
	builds  map[string]int   // how often each was begun
	calls   int              // running calls of Realise
	ended   map[string]error // by name: why the last call's ctx ended, if it did
}

// recipe is how to make one object.
type recipe struct {
	promised store.Kind
	delay    time.Duration
	hold     chan struct{} // if not nil, the build waits until it is closed
	make     func(path string) error
	err      error
}

type build struct {
	done chan struct{}
	err  error
}

func newFakeStore(t testing.TB) *fakeStore {
	t.Helper()
	real := filepath.Join(t.TempDir(), "real")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	s := openFakeStore(real)
	t.Cleanup(func() {
		s.finish(t)
		makeWritable(real)
	})
	return s
}

// finish lets all builds end, and waits for that.
func (s *fakeStore) finish(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	for _, r := range s.known {
		if r.hold != nil {
			select {
			case <-r.hold:
			default:
				close(r.hold)
			}
		}
	}
	s.mu.Unlock()
	until(t, "builds end", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.running) == 0
	})
}

// makeWritable lets an ordinary user's test remove its directory.
func makeWritable(dir string) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(p, 0o755)
		}
		return nil
	})
}

func openFakeStore(real string) *fakeStore {
	return &fakeStore{
		real:    real,
		valid:   make(map[string]store.Kind),
		known:   make(map[string]*recipe),
		running: make(map[string]*build),
		builds:  make(map[string]int),
		ended:   make(map[string]error),
	}
}

// name is a well-formed name; the digest begins with digits that count.
func name(i int, rest string) string {
	return fmt.Sprintf("%08d%s-%s", i, strings.Repeat("z", store.DigestLen-8), rest)
}

func (s *fakeStore) Lookup(name string) (fs.Entry, error) {
	if err := store.CheckBase(name); err != nil {
		return fs.Entry{}, errors.New("asked for what is no name")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.valid[name]; ok {
		return fs.Entry{Name: name, Valid: true, Kind: k}, nil
	}
	if r, ok := s.known[name]; ok {
		return fs.Entry{Name: name, Kind: r.promised}, nil
	}
	return fs.Entry{}, fmt.Errorf("lookup %s: %w", name, store.ErrUnknown)
}

func (s *fakeStore) List(after string, n int) ([]fs.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.valid {
		if name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var list []fs.Entry
	for _, name := range names[:min(n, len(names))] {
		list = append(list, fs.Entry{Name: name, Valid: true, Kind: s.valid[name]})
	}
	return list, nil
}

func (s *fakeStore) Realise(ctx context.Context, c fs.Call) error {
	name := c.Name
	s.mu.Lock()
	r := s.known[name]
	if r == nil {
		s.mu.Unlock()
		return store.ErrUnknown
	}
	if _, ok := s.valid[name]; ok {
		s.mu.Unlock()
		return nil
	}
	b := s.running[name]
	if b == nil {
		b = &build{done: make(chan struct{})}
		s.running[name] = b
		s.builds[name]++
		go s.run(name, r, b)
	}
	s.calls++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.calls--
		s.mu.Unlock()
	}()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		s.mu.Lock()
		s.ended[name] = ctx.Err()
		s.mu.Unlock()
		return ctx.Err()
	}
}

func (s *fakeStore) run(name string, r *recipe, b *build) {
	if r.hold != nil {
		<-r.hold
	}
	time.Sleep(r.delay)
	err := r.err
	if err == nil {
		err = s.put(name, r.make)
	}
	s.mu.Lock()
	b.err = err
	delete(s.running, name)
	s.mu.Unlock()
	close(b.done)
}

// put makes the object and registers it.
func (s *fakeStore) put(name string, make func(path string) error) error {
	p := filepath.Join(s.real, name)
	if err := make(p); err != nil {
		return err
	}
	kind, err := canonical(p)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.valid[name] = kind
	s.mu.Unlock()
	return nil
}

// refresh makes valid what is there.
func (s *fakeStore) refresh() error {
	entries, err := os.ReadDir(s.real)
	for _, e := range entries {
		k, err := canonical(filepath.Join(s.real, e.Name()))
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.valid[e.Name()] = k
		s.mu.Unlock()
	}
	return err
}

// canonical gives a tree the modes and times of store objects.
func canonical(root string) (store.Kind, error) {
	kind := store.KindUnknown
	var dirs []string
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		k, mode := store.KindRegular, os.FileMode(0o444)
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			if p == root {
				kind = store.KindSymlink
			}
			return nil
		case d.IsDir():
			k = store.KindDirectory
			dirs = append(dirs, p)
		case info.Mode()&0o100 != 0:
			k, mode = store.KindExecutable, 0o555
		}
		if p == root {
			kind = k
		}
		if d.IsDir() {
			return nil
		}
		return errors.Join(os.Chmod(p, mode), os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0)))
	})
	for _, d := range slices.Backward(dirs) {
		err = errors.Join(err, os.Chtimes(d, time.Unix(1, 0), time.Unix(1, 0)), os.Chmod(d, 0o555))
	}
	return kind, err
}

// add makes a name known.
func (s *fakeStore) add(name string, r recipe) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[name] = &r
	return name
}

// begun is how many builds were begun altogether.
func (s *fakeStore) begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, v := range s.builds {
		n += v
	}
	return n
}

// built is how often the build of name was begun.
func (s *fakeStore) built(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.builds[name]
}

// waiting is how many callers wait.
func (s *fakeStore) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *fakeStore) delete(t *testing.T, name string) {
	t.Helper()
	s.mu.Lock()
	delete(s.valid, name)
	s.mu.Unlock()
	p := filepath.Join(s.real, name)
	makeWritable(p)
	if err := os.RemoveAll(p); err != nil {
		t.Fatal(err)
	}
}

func (s *fakeStore) Why(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[name]; !ok {
		return nil, store.ErrUnknown
	}
	return []byte("builder of " + name + " failed\n"), nil
}

func (s *fakeStore) Log(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[name]; !ok {
		return nil, store.ErrUnknown
	}
	return []byte(strings.Repeat("a line of the log\n", 20000)), nil
}

func (s *fakeStore) Waiters() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Appendf(nil, "%d wait\n", s.calls), nil
}

// Keys and Fact are there for all that is known: "state" for everything, "text"
// for what is valid. "long" is not listed.
func (s *fakeStore) Keys(name string) ([]string, error) {
	e, err := s.Lookup(name)
	switch {
	case err != nil:
		return nil, err
	case e.Valid:
		return []string{"state", "text"}, nil
	}
	return []string{"state"}, nil
}

func (s *fakeStore) Fact(name, key string) ([]byte, error) {
	e, err := s.Lookup(name)
	switch {
	case err != nil:
		return nil, err
	case key == "state" && e.Valid:
		return []byte("realised"), nil
	case key == "state":
		return []byte("unrealised"), nil
	case key == "text" && e.Valid:
		return []byte("words of " + name), nil
	case key == "long":
		return bytes.Repeat([]byte("words "), 5000), nil
	}
	return nil, store.ErrUnknown
}

func (s *fakeStore) Status() ([]byte, error) {
	return fmt.Appendf(nil, "begun %d\n", s.begun()), nil
}

// What objects can be.

func regular(text string) func(string) error {
	return func(p string) error { return os.WriteFile(p, []byte(text), 0o644) }
}

func script(text string) func(string) error {
	return func(p string) error { return os.WriteFile(p, []byte("#!/bin/sh\n"+text+"\n"), 0o755) }
}

func symlink(target string) func(string) error {
	return func(p string) error { return os.Symlink(target, p) }
}

// tree makes a directory with bin/hello, a program, share/doc, a file, and
// link, which points to share/doc.
func tree(p string) error {
	return errors.Join(
		os.MkdirAll(filepath.Join(p, "bin"), 0o755),
		os.MkdirAll(filepath.Join(p, "share"), 0o755),
		script("echo hello")(filepath.Join(p, "bin", "hello")),
		regular("doc\n")(filepath.Join(p, "share", "doc")),
		symlink("share/doc")(filepath.Join(p, "link")),
	)
}
