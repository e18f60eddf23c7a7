package nar

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"storefs/store"
)

const (
	// runSteps is how many files are read in one go. Outputs that have no more
	// are read in the caller's goroutine. Each step may hold a directory open.
	runSteps = 32
	// readers is how many goroutines read ahead. More than there are processors,
	// because they wait for the disk.
	readers = 4
	// runsAhead bounds what reading ahead takes: each run buffers at most three
	// blocks, and holds at most runSteps directories.
	runsAhead = 8
)

// tree turns files into an archive. The walk lists directories and cuts the
// archive into runs of steps; runs are read ahead by a few goroutines; their
// blocks go, in order, into a pipeline.
type tree struct {
	*pipeline
	reading

	dirs  lineage
	run   []step
	begun bool // the first run was read

	ahead chan *run // to the readers, nil until the second run
	order chan *run // the same runs, to the one who collects their blocks
}

// reading says what is done with files besides reading them.
type reading struct {
	canon *canon   // nil: they are left as they are
	form  *form    // nil: it does not matter how they are
	file  FileFunc // nil: nobody wants to hear of them
}

// step is a piece of an archive.
type step struct {
	do   action
	dir  *dir // held, but for openDirectory, which has none
	name string
}

type action uint8

const (
	openDirectory action = iota
	closeDirectory
	regularFile
	symbolicLink
)

// run is a part of an archive that is read by one goroutine.
type run struct {
	steps []step
	out   chan []byte // its blocks; closed when it is read
}

// archive writes the archive of path through the stages. It returns when no
// goroutine is left.
func archive(ctx context.Context, path string, how reading, stages ...io.Writer) (store.Kind, error) {
	t := &tree{pipeline: newPipeline(ctx, stages), reading: how}
	kind, err := t.walk(path)
	if err == nil {
		err = t.endRun()
	}
	if err != nil {
		t.fail(err)
	}
	for _, s := range t.run {
		s.release()
	}
	t.dirs.close()
	if t.ahead != nil {
		close(t.ahead)
		close(t.order) // who collects closes the pipeline
	} else {
		t.closeInput()
	}
	return kind, t.end()
}

func (t *tree) walk(path string) (store.Kind, error) {
	base, name, err := openParent(path)
	if err != nil {
		return "", err
	}
	defer base.release()
	st, err := base.stat(name)
	if err != nil {
		return "", err
	}
	if err := t.enter(base, dirent{name, typeOf(st)}); err != nil {
		return "", err
	}
	kind := kindOf(st)
	if kind != store.KindDirectory {
		return kind, nil
	}
	return kind, t.descend()
}

// descend walks the directory that was entered last.
func (t *tree) descend() error {
	var todo [][]dirent // of each directory of t.dirs
	buf := make([]byte, 32<<10)
	for len(t.dirs) > 0 {
		d := t.dirs.top()
		if len(todo) < len(t.dirs) { // just entered
			entries, err := d.list(buf)
			if err != nil {
				return insideError(d.path(), err)
			}
			todo = append(todo, entries)
		}
		rest := &todo[len(todo)-1]
		if len(*rest) == 0 {
			todo = todo[:len(todo)-1]
			if err := t.leave(d); err != nil {
				return err
			}
			continue
		}
		e := (*rest)[0]
		*rest = (*rest)[1:]
		if err := t.enter(d, e); err != nil {
			return err
		}
	}
	return nil
}

// enter begins with an entry of d: directories are opened and pushed, files and
// links are left to a run.
func (t *tree) enter(d *dir, e dirent) error {
	if e.typ == unix.DT_UNKNOWN { // some file systems do not tell
		st, err := d.stat(e.name)
		if err != nil {
			return insideError(d.inside(e.name), err)
		}
		e.typ = typeOf(st)
	}
	switch e.typ {
	case unix.DT_REG:
		d.hold()
		return t.add(step{regularFile, d, e.name})
	case unix.DT_LNK:
		d.hold()
		return t.add(step{symbolicLink, d, e.name})
	case unix.DT_DIR:
		if len(t.dirs) == MaxDepth {
			return insideError(d.inside(e.name), unfit(fmt.Sprintf("it is more than %d directories deep", MaxDepth)))
		}
		inner, err := t.openDir(d, e.name)
		if err != nil {
			return insideError(d.inside(e.name), err)
		}
		t.dirs.push(inner)
		return t.add(step{do: openDirectory, name: inner.name})
	}
	return insideError(d.inside(e.name), checkType(e.typ))
}

func (t *tree) openDir(d *dir, name string) (*dir, error) {
	inner, st, err := d.openDir(name)
	if err == unix.EACCES && t.canon != nil {
		if st, err = d.stat(name); err == nil {
			err = d.addMode(name, st, 0o700)
		}
		if err == nil {
			inner, st, err = d.openDir(name)
		}
	}
	if err != nil {
		return nil, err
	}
	if t.canon != nil {
		err = t.canon.dir(inner, st)
	}
	if t.form != nil {
		err = t.form.opened(d, name, inner.fd, st)
	}
	if err != nil {
		inner.release()
		return nil, err
	}
	inner.mtime = st.Mtim
	return inner, nil
}

// leave ends the innermost directory d.
func (t *tree) leave(d *dir) error {
	d.hold()
	if err := t.add(step{closeDirectory, d, d.name}); err != nil {
		return err
	}
	return t.dirs.pop()
}

// add puts a step into the archive.
func (t *tree) add(s step) error {
	t.run = append(t.run, s)
	if len(t.run) < runSteps {
		return nil
	}
	return t.endRun()
}

// endRun gives the steps collected so far to a reader. The first run is read at
// once: most outputs have no other.
func (t *tree) endRun() error {
	r := &run{steps: t.run}
	if len(t.run) == 0 {
		return nil
	}
	if !t.begun {
		t.begun = true
		t.run = nil
		out := &blocks{buf: make([]byte, 0, firstBlock), fresh: t.fresh, give: t.put}
		out.put(magic)
		return t.read(r.steps, out)
	}
	if t.ahead == nil {
		t.startReaders()
	}
	r.out = make(chan []byte, 2)
	if err := send(t.ctx, t.order, r); err != nil {
		return err
	}
	if err := send(t.ctx, t.ahead, r); err != nil {
		return err
	}
	t.run = make([]step, 0, runSteps)
	return nil
}

func (t *tree) startReaders() {
	t.ahead = make(chan *run, runsAhead)
	t.order = make(chan *run, runsAhead)
	for range readers {
		t.wg.Go(func() {
			for r := range t.ahead {
				t.readAhead(r)
			}
		})
	}
	t.wg.Go(t.collect)
}

func (t *tree) readAhead(r *run) {
	defer close(r.out)
	out := &blocks{fresh: t.fresh, give: func(block []byte) error { return send(t.ctx, r.out, block) }}
	if err := t.read(r.steps, out); err != nil {
		t.fail(err)
	}
}

// collect puts the blocks of all runs into the pipeline, in the archive's order.
// The readers take runs in the same order, so that the run which is waited for
// is always read or being read.
func (t *tree) collect() {
	defer t.closeInput()
	for r := range t.order {
		if !t.collectRun(r) {
			return
		}
	}
}

func (t *tree) collectRun(r *run) bool {
	for {
		select {
		case block, ok := <-r.out:
			if !ok {
				return t.ctx.Err() == nil
			}
			if err := t.put(block); err != nil {
				t.fail(err)
				return false
			}
		case <-t.ctx.Done():
			return false
		}
	}
}

// read does the steps, in order, and releases what they hold.
func (t *tree) read(steps []step, out *blocks) error {
	var err error
	for _, s := range steps {
		if err == nil {
			err = context.Cause(t.ctx)
		}
		if err == nil {
			err = t.readStep(s, out)
		}
		s.release()
	}
	if err != nil {
		return err
	}
	out.flush()
	return out.err
}

func (s step) release() {
	if s.dir != nil {
		s.dir.release()
	}
}

// readStep writes one step. Everything but the object itself is wrapped as a
// directory's entry.
func (t *tree) readStep(s step, out *blocks) error {
	entry := s.name != "" && (s.dir == nil || s.dir.parent != nil)
	if entry && s.do != closeDirectory {
		out.put("entry", "(", "name", s.name, "node")
	}
	switch s.do {
	case openDirectory:
		out.put("(", "type", "directory")
		return out.err
	case closeDirectory:
		// Its time tells whether entries came or went since it was listed.
		var st unix.Stat_t
		err := unix.Fstat(s.dir.fd, &st)
		if err == nil && st.Mtim != s.dir.mtime {
			err = errChanged
		}
		if err != nil {
			return insideError(s.dir.path(), err)
		}
		out.put(")")
	case regularFile:
		if err := t.readFile(s.dir, s.name, out); err != nil {
			return insideError(s.dir.inside(s.name), err)
		}
	case symbolicLink:
		if err := t.readLink(s.dir, s.name, out); err != nil {
			return insideError(s.dir.inside(s.name), err)
		}
	}
	if entry {
		out.put(")")
	}
	return out.err
}

func kindOf(st *unix.Stat_t) store.Kind {
	switch typeOf(st) {
	case unix.DT_DIR:
		return store.KindDirectory
	case unix.DT_LNK:
		return store.KindSymlink
	}
	if st.Mode&0o100 != 0 {
		return store.KindExecutable
	}
	return store.KindRegular
}
