package instantiate

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
)

const (
	// maxSurveyed bounds the names that a survey remembers: a few hundred bytes each.
	maxSurveyed = 1 << 17
	// maxKept is the longest content that a survey remembers, and maxContents bounds them
	// all, in bytes.
	maxKept     = 256 << 10
	maxContents = 32 << 20
)

// survey is what one evaluation has seen of directories on its way through sources: where
// many sources take files from one, as the objects of a project take headers, it is
// listed once, and what several of them hold is read twice, and not once for each: what
// only one holds is not kept. A nil survey remembers nothing.
type survey struct {
	dirs   map[string]*surveyed // by their paths on the host
	names  int                  // of all that are remembered
	memory int                  // bytes of contents
}

// surveyed is a directory.
type surveyed struct {
	names []string // sorted
	files map[string]*sourceFile
}

// sourceFile is a file of a source.
type sourceFile struct {
	info    fs.FileInfo
	read    bool   // by an earlier source
	content []byte // nil: it is to be read
}

// directory lists name, as root sees it, which is host.
func (s *survey) directory(root *os.Root, name, host string) (*surveyed, error) {
	if s != nil {
		if d := s.dirs[host]; d != nil {
			return d, nil
		}
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Not ReadDir: below an os.Root it asks for the attributes of each, also of those
	// that a filter leaves out, which may be many.
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	d := &surveyed{names: names}
	if s == nil || s.names+len(names) > maxSurveyed {
		return d, nil
	}
	if s.dirs == nil {
		s.dirs = map[string]*surveyed{}
	}
	d.files = make(map[string]*sourceFile)
	s.dirs[host], s.names = d, s.names+len(names)
	return d, nil
}

// file finds the one called base in d, which is name as root sees it.
func (d *surveyed) file(root *os.Root, name, base string) (*sourceFile, error) {
	if f := d.files[base]; f != nil {
		return f, nil
	}
	info, err := root.Lstat(path.Join(name, base))
	if err != nil {
		return nil, err
	}
	f := &sourceFile{info: info}
	if d.files != nil {
		d.files[base] = f
	}
	return f, nil
}

// keeps reports whether the content of f, which is about to be read, is to be kept: when it
// is read for the second time.
func (s *survey) keeps(f *sourceFile) bool {
	size := f.info.Size()
	if s == nil || size > maxKept || int64(s.memory)+size > maxContents {
		return false
	}
	again := f.read
	f.read = true
	return again
}

// open opens f, which is name as root sees it, if it is what it was.
func (f *sourceFile) open(root *os.Root, name string) (*os.File, error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && (!os.SameFile(info, f.info) || info.Size() != f.info.Size()) {
		err = errUnsteady
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

var errUnsteady = errors.New("changed while it was read")
