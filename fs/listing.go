package fs

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"storefs/store"
)

// listing is the answer to one READDIR or READDIRPLUS.
type listing struct {
	out  *fuse.DirEntryList
	plus bool
	left int // bytes
}

// add adds an entry without a node id, and reports whether it fitted.
func (l *listing) add(e fuse.DirEntry) bool {
	ok := false
	if l.plus {
		ok = l.out.AddDirLookupEntry(e) != nil
	} else {
		ok = l.out.AddDirEntry(e)
	}
	if ok {
		l.left -= l.size(e.Name)
	}
	return ok
}

// size is what an entry takes, by the layout of fuse_direntplus and
// fuse_dirent.
func (l *listing) size(name string) int {
	n := 24 + (len(name)+7)&^7
	if l.plus {
		n += int(unsafe.Sizeof(fuse.EntryOut{}))
	}
	return n
}

// dots adds "." and ".." if offset is before them.
func (l *listing) dots(offset, own, up uint64) bool {
	if offset < 1 && !l.add(fuse.DirEntry{Name: ".", Mode: syscall.S_IFDIR, Ino: own, Off: 1}) {
		return false
	}
	return offset >= 2 || l.add(fuse.DirEntry{Name: "..", Mode: syscall.S_IFDIR, Ino: up, Off: 2})
}

// group adds store objects that share an offset: all of them or none, unless
// even an empty answer is too small for all.
func (l *listing) group(entries []Entry, offset uint64) bool {
	need := 0
	for _, e := range entries {
		need += l.size(e.Name)
	}
	if need > l.left && len(l.out.Bytes()) > 0 {
		return false
	}
	for _, e := range entries {
		if !l.add(fuse.DirEntry{Name: e.Name, Mode: typeOf(e.Kind), Ino: topIno(e.Name), Off: offset}) {
			return false
		}
	}
	return true
}

// typeOf is the S_IFMT part of a mode, 0 if it is not known.
func typeOf(k store.Kind) uint32 {
	switch k {
	case store.KindDirectory:
		return syscall.S_IFDIR
	case store.KindRegular, store.KindExecutable:
		return syscall.S_IFREG
	case store.KindSymlink:
		return syscall.S_IFLNK
	}
	return 0
}
