package builder

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/store"
	"storefs/tree"
)

// keptPrefix begins the names of scratch directories that were kept.
const keptPrefix = "kept-"

// scratch is a scratch directory: build (the builder's working directory), tmp,
// store (its store directory, where it puts the outputs), root (where the child
// mounts the builder's root, and copies of outputs are made) and parked (stubs that
// are not in use). It is closed to other users, whatever the builder makes in it: what
// is bound from it is bound before there is a builder.
type scratch struct {
	dir    string
	number uint64 // of this one, for as long as there is the Local
	// stubs are the mount points in store, by name, and links the inputs that
	// are symbolic links.
	stubs  map[string]byte // letters of inputs
	links  []string
	parked map[byte]int // how many stubs of each letter
	// fitted counts the changes of stubs, over all scratch directories.
	fitted uint64
	inputs inputsKey // that they are for
	// left are the directories that a builder can write to, open, and with what
	// they were like when they were new.
	left []*leftDir
	// given says that its builder has the host's network, over which it may give
	// directories that are open to processes that outlive it; and that there may be
	// copies of outputs in root.
	given bool
}

// newScratch makes one in dir, with a name that begins with prefix.
func newScratch(dir, prefix string, ids identity) (*scratch, error) {
	dir, err := os.MkdirTemp(dir, prefix+"-")
	if err != nil {
		return nil, err
	}
	s := &scratch{dir: dir, stubs: make(map[string]byte), parked: make(map[byte]int)}
	for _, d := range []struct {
		name  string
		mode  uint32
		owner bool // the builder's
	}{
		{"build", 0o700, true},
		{"parked", 0o700, false},
		{"root", 0o700, false},
		// As in Nix, the store is not the builder's own, but it may add to it.
		{"store", 0o1775, false},
		{"tmp", 0o1777, false},
	} {
		p := s.path(d.name)
		if err := os.Mkdir(p, 0o700); err != nil {
			return s, err
		}
		if d.owner {
			err = ids.give(p)
		} else if d.name == "store" && ids.uid != os.Geteuid() {
			err = os.Lchown(p, os.Geteuid(), ids.gid)
		}
		if err == nil && d.mode != 0o700 {
			err = unix.Chmod(p, d.mode)
		}
		if err != nil {
			return s, fmt.Errorf("make scratch directory %s: %w", p, err)
		}
	}
	for _, name := range []string{"build", "store", "tmp"} {
		d, err := openLeft(s.path(name))
		if err != nil {
			return s, err
		}
		s.left = append(s.left, d)
	}
	return s, nil
}

// store is the directory that has the stubs.
func (s *scratch) store() *leftDir { return s.left[1] }

// reopen gives the directory that has the outputs the mode that it was made with. Where
// the builder is the user that we are, it may have closed it.
func (s *scratch) reopen() error {
	d := s.store()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &st); err != nil {
		return &fs.PathError{Op: "fstat", Path: d.file.Name(), Err: err}
	}
	if uint16(st.Mode) == d.fresh.mode {
		return nil
	}
	if err := unix.Fchmod(int(d.file.Fd()), uint32(d.fresh.mode)&^unix.S_IFMT); err != nil {
		return &fs.PathError{Op: "chmod", Path: d.file.Name(), Err: err}
	}
	return nil
}

func (s *scratch) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// copyOf is where a copy of an output may be made: no builder has ever seen the directory.
func (s *scratch) copyOf(p store.Path) string { return s.path("root", p.Base()) }

// fit makes the stubs of inputs, where they can be mounted. To make and remove
// files costs a hundred times as much as to rename them, on a file system that is
// busy with that: so stubs of inputs that are not wanted become those of others,
// or are parked.
func (s *scratch) fit(inputs []store.Info, key inputsKey, number uint64, real string) error {
	for _, name := range s.links {
		if err := os.Remove(s.path("store", name)); err != nil {
			return err
		}
	}
	s.links = s.links[:0]
	if s.fitted == 0 || s.inputs != key {
		if err := s.exchange(inputs); err != nil {
			return err
		}
		// Without the links, which do not stay: they are in the size of a directory on
		// some file systems.
		var err error
		if s.store().fresh, err = s.store().summarise(); err != nil {
			return err
		}
		s.inputs, s.fitted = key, number
	}
	for _, in := range inputs {
		if inputLetter(in.Kind) != letterSymlink {
			continue
		}
		name := in.Path.Base()
		target, err := os.Readlink(filepath.Join(real, name))
		if err == nil {
			err = os.Symlink(target, s.path("store", name))
		}
		if err != nil {
			return inputError(name, err)
		}
		s.links = append(s.links, name)
	}
	return nil
}

// exchange makes the stubs those of inputs.
func (s *scratch) exchange(inputs []store.Info) error {
	wanted := make(map[string]byte, len(inputs))
	for _, in := range inputs {
		if letter := inputLetter(in.Kind); letter != letterSymlink {
			wanted[in.Path.Base()] = letter
		}
	}
	surplus := make(map[byte][]string)
	for name, letter := range s.stubs {
		if w, ok := wanted[name]; !ok {
			surplus[letter] = append(surplus[letter], name)
		} else if w != letter {
			if err := s.park(name, letter); err != nil {
				return err
			}
		}
	}
	for name, letter := range wanted {
		if s.stubs[name] == letter {
			continue
		}
		var err error
		if list := surplus[letter]; len(list) > 0 {
			last := list[len(list)-1]
			surplus[letter] = list[:len(list)-1]
			delete(s.stubs, last)
			err = s.rename(last, name)
		} else if n := s.parked[letter]; n > 0 {
			s.parked[letter]--
			err = s.rename(parking(letter, n-1), name)
		} else if letter == letterDirectory {
			err = os.Mkdir(s.path("store", name), 0o755)
		} else {
			err = makeStubFile(s.path("store", name))
		}
		if err != nil {
			return err
		}
		s.stubs[name] = letter
	}
	for letter, list := range surplus {
		for _, name := range list {
			if err := s.park(name, letter); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scratch) park(name string, letter byte) error {
	if err := s.rename(name, parking(letter, s.parked[letter])); err != nil {
		return err
	}
	s.parked[letter]++
	delete(s.stubs, name)
	return nil
}

// parking is where the n-th parked stub of a letter is, from the directory that has the
// stubs.
func parking(letter byte, n int) string {
	return "../parked/" + string(letter) + strconv.Itoa(n)
}

// rename gives a stub another name, both from the directory that has the stubs.
// Package os would look first whether there is something by that name.
func (s *scratch) rename(from, to string) error {
	fd := int(s.store().file.Fd())
	if err := unix.Renameat(fd, from, fd, to); err != nil {
		return &os.LinkError{Op: "rename", Old: s.path("store", from), New: s.path("store", to), Err: err}
	}
	return nil
}

// empty removes all that the build left, and reports whether the scratch directory is
// then like a new one. One that others may have open is not, and is left as it is. All of
// the builder's processes must be dead.
func (s *scratch) empty() (bool, error) {
	if s.given {
		return false, nil
	}
	for _, d := range s.left {
		keep := func([]byte, uint8) bool { return false }
		stubs := 0
		if d == s.store() {
			s.links = s.links[:0]
			keep = func(name []byte, typ uint8) bool {
				if !s.isStub(name, typ) {
					return false
				}
				stubs++
				return true
			}
		}
		fresh, err := d.empty(keep)
		if err != nil || !fresh || d == s.store() && stubs != len(s.stubs) {
			return false, err
		}
	}
	return true, nil
}

func (s *scratch) isStub(name []byte, typ uint8) bool {
	letter, ok := s.stubs[string(name)]
	if letter == letterDirectory {
		return ok && typ == unix.DT_DIR
	}
	return ok && typ == unix.DT_REG
}

// renew makes its directories as old as if they were made now.
func (s *scratch) renew() error {
	for _, d := range s.left {
		if err := d.renew(); err != nil {
			return err
		}
	}
	return nil
}

// close closes what is open of it.
func (s *scratch) close() {
	for _, d := range s.left {
		d.file.Close()
	}
	s.left = nil
}

// makeScratch gives the build a scratch directory with the stubs of its inputs.
func (b *build) makeScratch() error {
	var err error
	if b.scratch, err = b.scratches.take(b); err != nil {
		return err
	}
	_, b.scratch.given = b.job.Derivation.Fixed()
	return nil
}

// discard gives the scratch directory back, if there is one. What cannot be
// removed is left to whoever opens the state directory next.
func (b *build) discard() {
	if b.scratch != nil {
		b.scratches.give(b.scratch)
		b.scratch = nil
	}
}

// keep leaves the scratch directory of a failed build for its user to look at,
// under a name that says so.
func (b *build) keep() (string, error) {
	b.spawner.forget(b.scratch.number)
	b.scratch.close()
	name := filepath.Base(b.scratch.dir)
	kept := filepath.Join(b.opts.Builds, keptPrefix+b.job.Drv.Digest()+name[strings.LastIndexByte(name, '-'):])
	if err := os.Rename(b.scratch.dir, kept); err != nil {
		return "", err
	}
	ours := []string{"parked"}
	if b.scratch.given {
		ours = append(ours, "root") // copies of what is in store
	}
	for _, name := range ours {
		if err := tree.RemoveAll(filepath.Join(kept, name)); err != nil {
			return kept, err
		}
	}
	if b.ids.uid == os.Geteuid() {
		return kept, nil
	}
	return kept, own(kept)
}

// own makes this process's user the owner of a directory and all that is in it. Others may
// have some of it open, and change it meanwhile: nothing outside is touched.
func own(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return ownAll(root)
}

func ownAll(root *os.Root) error {
	if err := root.Lchown(".", os.Geteuid(), os.Getegid()); err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	dir.Close()
	for _, e := range entries {
		if err != nil {
			break
		}
		if !e.IsDir() {
			err = root.Lchown(e.Name(), os.Geteuid(), os.Getegid())
			continue
		}
		var sub *os.Root
		if sub, err = root.OpenRoot(e.Name()); err == nil {
			err = ownAll(sub)
			sub.Close()
		}
	}
	return err
}
