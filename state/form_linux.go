package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"storefs/nar"
	"storefs/store"
	"storefs/tree"
)

// maxStrange is of how many files of an object it is said what is strange.
const maxStrange = 10

// form is what was found out of the form of one object.
type form struct {
	mu      sync.Mutex
	strange []strangeFile // the first ones, by their paths
	more    int           // how many others there are
	links   map[nar.FileID]*fileLinks
}

type strangeFile struct {
	path string
	what []string
}

// fileLinks are the links of one file that has several.
type fileLinks struct {
	total uint64 // how many it has, wherever they are
	seen  uint64 // how many were found where they may be
	in    []linkedFile
}

// linkedFile is where a file is in an object, by one of its names there.
type linkedFile struct {
	object store.Path
	path   string
}

// options have f hear of all that is read.
func (f *form) options() nar.FormOptions {
	return nar.FormOptions{Owner: os.Geteuid(), Strange: f.add, Linked: f.link}
}

func (f *form) add(path string, what []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, _ := slices.BinarySearchFunc(f.strange, path, func(s strangeFile, path string) int { return cmp.Compare(s.path, path) })
	f.strange = slices.Insert(f.strange, i, strangeFile{path, what})
	if len(f.strange) > maxStrange {
		f.strange = f.strange[:maxStrange]
		f.more++
	}
}

func (f *form) link(path string, file nar.FileID, links uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links == nil {
		f.links = make(map[nar.FileID]*fileLinks)
	}
	l := f.links[file]
	if l == nil {
		l = &fileLinks{in: []linkedFile{{path: path}}}
		f.links[file] = l
	}
	l.total = links
	l.seen++
	l.in[0].path = min(l.in[0].path, path)
}

// message says what is strange, "" if nothing is.
func (f *form) message() string {
	var all []string
	for _, s := range f.strange {
		text := strings.Join(s.what, ", ")
		if s.path != "" {
			text = fmt.Sprintf("%q: %s", s.path, text)
		}
		all = append(all, text)
	}
	switch {
	case f.more == 1:
		all = append(all, "and another file")
	case f.more > 1:
		all = append(all, fmt.Sprintf("and %d other files", f.more))
	}
	return strings.Join(all, "; ")
}

// keep remembers which files of an object have links that are not in it: they may be in
// other objects. Outputs of one build may have files in common, as may all files of one
// output, since builders make links as they like; nothing else of ours makes any.
func (v *verifier) keep(p store.Path, l look) {
	v.unread = v.unread || l.unread
	for id, links := range l.links {
		if links.seen >= links.total {
			continue
		}
		all := v.links[id]
		if all == nil {
			if v.links == nil {
				v.links = make(map[nar.FileID]*fileLinks)
			}
			all = new(fileLinks)
			v.links[id] = all
		}
		all.total = links.total
		all.seen += links.seen
		all.in = append(all.in, linkedFile{p, links.in[0].path})
	}
}

// linked reports the files that have links which are in no valid object. What those lead to can be
// changed by whoever may write to it, and has another path.
func (v *verifier) linked(ctx context.Context) error {
	maps.DeleteFunc(v.links, func(_ nar.FileID, l *fileLinks) bool { return l.seen >= l.total })
	if len(v.links) == 0 || v.unread { // what was not read may have them
		return nil
	}
	// What is being made or removed may have them, too. They are counted before the files
	// are looked at again: then there are fewer, if it has gone meanwhile. And what was made invalid
	// before it could be read is in builds/ once nobody has the gate.
	func() {
		v.state.gate.RLock()
		defer v.state.gate.RUnlock()
	}()
	if err := v.countLinks(ctx, v.state.Builds(), ".", func(*fileLinks) bool { return true }); err != nil {
		return err
	}
	if err := v.countSiblings(ctx); err != nil {
		return err
	}
	objects := make(map[store.Path]*form)
	for id, l := range v.links {
		for _, in := range l.in {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(v.state.Real(in.object), in.path), &st)
			if err != nil || id != (nar.FileID{Device: uint64(st.Dev), Inode: st.Ino}) || uint64(st.Nlink) <= l.seen {
				continue
			}
			f := objects[in.object]
			if f == nil {
				f = new(form)
				objects[in.object] = f
			}
			is := "is"
			if uint64(st.Nlink)-l.seen > 1 {
				is = "are"
			}
			f.add(in.path, []string{fmt.Sprintf("%d of its %d links %s not in the store", uint64(st.Nlink)-l.seen, st.Nlink, is)})
		}
	}
	for _, p := range slices.Sorted(maps.Keys(objects)) {
		info, err := v.state.db.Info(p)
		if errors.Is(err, store.ErrNotValid) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := v.deal(ctx, info, look{message: objects[p].message(), formOnly: true}); err != nil {
			return err
		}
	}
	return nil
}

// countSiblings counts the links that are in other outputs of the same build, where none
// was found: of a build that was registered meanwhile, some outputs are where this had been
// already.
func (v *verifier) countSiblings(ctx context.Context) error {
	known := make(map[store.Path]bool)
	var siblings []store.Path
	for _, l := range v.links {
		for _, in := range l.in {
			if known[in.object] {
				continue
			}
			known[in.object] = true
			outputs, err := v.state.siblings(in.object)
			if err != nil {
				return err
			}
			siblings = append(siblings, outputs...)
		}
	}
	slices.Sort(siblings)
	for _, p := range slices.Compact(siblings) {
		unseen := func(l *fileLinks) bool {
			return !slices.ContainsFunc(l.in, func(in linkedFile) bool { return in.object == p })
		}
		if err := v.countLinks(ctx, v.state.RealDir(), p.Base(), unseen); err != nil {
			return err
		}
	}
	return nil
}

// siblings are the other outputs of what made p that are valid.
func (s *State) siblings(p store.Path) ([]store.Path, error) {
	info, err := s.db.Info(p)
	if errors.Is(err, store.ErrNotValid) || err == nil && info.Deriver == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	outputs, err := s.db.Outputs(info.Deriver)
	if err != nil {
		return nil, err
	}
	var others []store.Path
	for _, o := range outputs {
		valid, err := s.db.Valid(o.Path)
		if err != nil {
			return nil, err
		}
		if valid && o.Path != p {
			others = append(others, o.Path)
		}
	}
	return others, nil
}

// countLinks counts what is at name in dir of those links that are looked for and that count
// is for. What goes meanwhile is nothing to it. It does not leave dir, where builders may make a link of
// what was a directory.
func (v *verifier) countLinks(ctx context.Context, dir, name string, count func(*fileLinks) bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), name, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || d.IsDir() {
			return nil
		}
		st, err := root.Lstat(path)
		if err != nil {
			return nil
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if l := v.links[nar.FileID{Device: uint64(sys.Dev), Inode: sys.Ino}]; l != nil && count(l) {
			l.seen++
		}
		return nil
	})
}

// copied makes an object of the right form of one that has the right contents.
func (s *State) copied(ctx context.Context, info store.Info) (o Output, release func(), err error) {
	scratch := s.newScratch("copy")
	files, err := copyTree(ctx, s.Real(info.Path), scratch, info.NarHash)
	release = func() { _ = tree.RemoveAll(scratch) }
	if err != nil {
		release() // it may be whole, and other than it should be
		return Output{}, nil, err
	}
	return Output{Info: info, Scratch: scratch, Files: files}, release, nil
}
