package integrity

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"storefs/nar"
	"storefs/store"
)

// Records is what was kept of objects when they were registered.
type Records interface {
	// Info is what is registered of an object; store.ErrNotValid.
	Info(p store.Path) (store.Info, error)
	// Files are the hashes of its files, nil if they were not recorded.
	Files(info store.Info) (*Files, error)
	// SetFiles records them.
	SetFiles(info store.Info, f *Files) error
}

// Options say what a Checker works with.
type Options struct {
	Store   store.Dir
	Real    string // the directory of the objects
	Records Records
	Memory  *Memory
	// Found is told of damage, once for each time that it is found. The answer
	// waits for it.
	Found func(store.Damage)
	// Failed is told when something cannot be kept, which makes no answer
	// wrong. It may be nil.
	Failed func(error)
}

// remembered is how long damage is answered without reading the file again. A
// repair ends it: see Forget.
const remembered = 10 * time.Second

// Checker compares files with what was registered of them, each once a boot.
type Checker struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	running  map[question]*check
	bad      map[question]verdict
	held     map[store.Path]chan struct{}
	young    map[objectKey]*Files // records that were used lately
	old      map[objectKey]*Files
	youngLen int // bytes of young
}

// question is one thing to find out: of an object, a file or all of it.
type question struct {
	key  objectKey
	file uint32
}

// check is the search for an answer. All who ask the same wait for one.
type check struct {
	done chan struct{}
	err  error
}

type verdict struct {
	err   error
	until time.Time
}

// New makes a checker, to be closed.
func New(o Options) *Checker {
	c := &Checker{o: o, running: make(map[question]*check), bad: make(map[question]verdict), held: make(map[store.Path]chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends what is being read, and waits for it.
func (c *Checker) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// Verify returns nil if the file, link or directory at path inside of the object
// called name is what was registered, or was found to be so since the machine was
// started. For the object itself, path is "". A directory is what was registered if
// the same files, links and directories are in it; what is in those is not read.
//
// The error wraps store.ErrHashMismatch if it is not, store.ErrNotValid if
// nothing is registered any more, and the error of ctx if that ended first: the
// check goes on then, for whoever asks next.
func (c *Checker) Verify(ctx context.Context, name, path string) error {
	p, err := c.o.Store.Join(name)
	if err != nil {
		return err
	}
	for {
		if err := c.await(ctx, p); err != nil {
			return err
		}
		// What was compared while the object was replaced may be of either.
		if err := c.verify(ctx, p, path); err != nil || !c.isHeld(p) {
			return err
		}
	}
}

// Hold lets nobody have an answer about p until release is called: it is replaced,
// and until those who have looked it up know that, what they read of the new one
// would be taken for the old one's. One caller at a time may hold an object.
func (c *Checker) Hold(p store.Path) (release func()) {
	free := make(chan struct{})
	c.mu.Lock()
	c.held[p] = free
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		delete(c.held, p)
		c.mu.Unlock()
		close(free)
	}
}

func (c *Checker) isHeld(p store.Path) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[p] != nil
}

// await waits until nobody holds p.
func (c *Checker) await(ctx context.Context, p store.Path) error {
	for {
		c.mu.Lock()
		free := c.held[p]
		c.mu.Unlock()
		if free == nil {
			return nil
		}
		select {
		case <-free:
		case <-ctx.Done():
			return fmt.Errorf("verify %s: %w", p, context.Cause(ctx))
		case <-c.ctx.Done():
			return fmt.Errorf("verify %s: %w", p, context.Canceled)
		}
	}
}

func (c *Checker) verify(ctx context.Context, p store.Path, path string) error {
	info, err := c.o.Records.Info(p)
	if err != nil {
		return err
	}
	key := keyOf(info)
	if c.o.Memory.has(key, allFiles) {
		return nil
	}
	all := question{key, allFiles}
	if !byFile(info.Kind, info.NarSize) {
		return c.ask(ctx, all, p, "", func(ctx context.Context) error { return c.whole(ctx, info, nil) })
	}
	files, err := c.files(key, info)
	if err != nil {
		return err
	}
	if files == nil {
		return c.ask(ctx, all, p, "", func(ctx context.Context) error { return c.whole(ctx, info, &Recorder{}) })
	}
	index, was, ok := files.find(path)
	if !ok {
		switch there, err := isDirectory(c.real(p), path); {
		case err != nil:
			return fmt.Errorf("verify %s: %w", filepath.Join(string(p), path), err)
		case there:
			return nil // of those, only the ones with files are recorded
		}
		err := damaged("it is no file of the object that was registered")
		return c.ask(ctx, question{key, strangers}, p, path, func(context.Context) error { return err })
	}
	if c.o.Memory.has(key, index) {
		return nil
	}
	return c.ask(ctx, question{key, index}, p, path, func(ctx context.Context) error {
		if was[0] == kinds[store.KindDirectory] {
			return compareDirectory(c.real(p), path, files, was)
		}
		return compare(ctx, c.real(p), path, was)
	})
}

// strangers stands for what lies in an object without belonging to it. It is
// never found whole.
const strangers = noFiles

func (c *Checker) real(p store.Path) string { return filepath.Join(c.o.Real, p.Base()) }

// compare reads a file and compares it with its entry.
func compare(ctx context.Context, dir, path string, was []byte) error {
	kind, sum, err := readFile(ctx, dir, path)
	switch {
	case err != nil:
		return err
	case kinds[kind] != was[0]:
		return damaged("it is of the kind %s, another was registered", kind)
	case !bytes.Equal(sum[:], was[1:]):
		return damaged("its content has the hash sha256:%x, sha256:%x was registered", sum, was[1:])
	}
	return nil
}

// whole reads the whole object. With a recorder, its files are recorded, so
// that the next time, each is read alone.
func (c *Checker) whole(ctx context.Context, info store.Info, r *Recorder) error {
	kind, err := kindAt(unix.AT_FDCWD, c.real(info.Path))
	if err == nil && kind != info.Kind && kind != store.KindUnknown && info.Kind != store.KindUnknown {
		return damaged("it is of the kind %s, %s was registered", kind, info.Kind) // known soon, whatever its size
	}
	var file nar.FileFunc
	if r != nil {
		file = r.File
	}
	sum, err := nar.HashFiles(ctx, c.real(info.Path), file)
	switch {
	case err != nil:
		return err
	case !sum.Hash.Equal(info.NarHash):
		return damaged("its NAR has the hash %s, %s was registered", sum.Hash, info.NarHash)
	}
	if r != nil {
		if err := c.o.Records.SetFiles(info, r.Files(sum)); err != nil {
			c.failed(err)
		}
	}
	return nil
}

// ask gives the answer to q: one that is remembered, or that of the check that
// runs or now begins.
func (c *Checker) ask(ctx context.Context, q question, p store.Path, path string, f func(context.Context) error) error {
	c.mu.Lock()
	if v, ok := c.bad[q]; ok {
		if time.Now().Before(v.until) {
			c.mu.Unlock()
			return v.err
		}
		delete(c.bad, q)
	}
	r := c.running[q]
	if r == nil {
		// One that has ended since the caller looked left its answer here first.
		if c.o.Memory.has(q.key, q.file) {
			c.mu.Unlock()
			return nil
		}
		if c.closed {
			c.mu.Unlock()
			return context.Canceled
		}
		r = &check{done: make(chan struct{})}
		c.running[q] = r
		c.wg.Go(func() { c.run(q, r, p, path, f) })
	}
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("verify %s: %w", p, context.Cause(ctx))
	}
}

func (c *Checker) run(q question, r *check, p store.Path, path string, f func(context.Context) error) {
	err := f(c.ctx)
	found := err != nil && c.ctx.Err() == nil && !Transient(err)
	if found {
		// Whoever deletes an object makes it invalid first, and who replaces it holds it.
		if e := c.await(c.ctx, p); e != nil {
			found = false
		} else if info, e := c.o.Records.Info(p); e != nil || keyOf(info) != q.key {
			found, err = false, fmt.Errorf("%w: %w", store.ErrNotValid, err)
		}
	}
	if err != nil {
		r.err = fmt.Errorf("verify %s: %w", filepath.Join(string(p), path), err)
	} else if err := c.o.Memory.add(q.key, q.file); err != nil {
		c.failed(fmt.Errorf("keep what was verified: %w", err))
	}
	c.mu.Lock()
	delete(c.running, q)
	if found {
		now := time.Now()
		maps.DeleteFunc(c.bad, func(_ question, v verdict) bool { return now.After(v.until) })
		c.bad[q] = verdict{r.err, now.Add(remembered)}
	}
	c.mu.Unlock()
	if found {
		c.o.Found(store.Damage{Path: p, File: path, Message: err.Error(), Found: time.Now()})
	}
	close(r.done)
}

func (c *Checker) failed(err error) {
	if c.o.Failed != nil {
		c.o.Failed(err)
	}
}

// Forget takes back what was found of an object, which was replaced.
func (c *Checker) Forget(info store.Info) {
	key := keyOf(info)
	c.mu.Lock()
	for q := range c.bad {
		if q.key == key {
			delete(c.bad, q)
		}
	}
	delete(c.young, key)
	delete(c.old, key)
	c.mu.Unlock()
	if err := c.o.Memory.add(key, noFiles); err != nil {
		c.failed(fmt.Errorf("forget what was verified: %w", err))
	}
}

// cacheSize bounds, in bytes, half of the records that are kept in memory.
const cacheSize = 16 << 20

// files are the hashes of the object's files, nil if there are none.
func (c *Checker) files(k objectKey, info store.Info) (*Files, error) {
	c.mu.Lock()
	f := c.young[k]
	if f == nil {
		f = c.old[k]
	}
	c.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := c.o.Records.Files(info)
	if err != nil || f == nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.young == nil || c.youngLen+len(f.data) > cacheSize {
		c.old, c.young, c.youngLen = c.young, make(map[objectKey]*Files), 0
	}
	c.young[k] = f
	c.youngLen += len(f.data)
	return f, nil
}
