package nar

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// openDirs is how many directories of one lineage are kept open. What lies
// further up is closed, and opened again through ".." on the way back.
const openDirs = 64

// dir is an open directory. Several readers may hold it; the last one that
// releases it closes it.
type dir struct {
	fd     int
	parent *dir   // for names only: it may be closed
	name   string // in parent; "" for the object itself
	dev    uint64
	ino    uint64
	mtime  unix.Timespec // when it was entered
	refs   atomic.Int32
}

func newDir(fd int, parent *dir, name string, st *unix.Stat_t) *dir {
	d := &dir{fd: fd, parent: parent, name: name, dev: st.Dev, ino: st.Ino, mtime: st.Mtim}
	d.refs.Store(1)
	return d
}

// openParent opens the directory that path is in, and tells the name that it
// has there. Links on the way to it are followed: they are the caller's.
func openParent(path string) (*dir, string, error) {
	clean := strings.TrimRight(path, "/")
	parent, name := ".", clean
	switch i := strings.LastIndexByte(clean, '/'); {
	case path == "":
		return nil, "", unix.ENOENT
	case clean == "":
		parent, name = "/", "."
	case i == 0:
		parent, name = "/", clean[1:]
	case i > 0:
		parent, name = clean[:i], clean[i+1:]
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", parent, err)
	}
	return newDir(fd, nil, "", &unix.Stat_t{}), name, nil
}

func (d *dir) hold() { d.refs.Add(1) }

func (d *dir) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// inside is the path of the entry called name, as seen from the object.
func (d *dir) inside(name string) string {
	if d.parent == nil {
		return ""
	}
	names := []string{name}
	for ; d.parent != nil; d = d.parent {
		if d.name != "" {
			names = append(names, d.name)
		}
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// path is the directory's own path, as seen from the object.
func (d *dir) path() string {
	if d.parent == nil {
		return ""
	}
	return d.parent.inside(d.name)
}

// openDir opens the directory called name, never through a link.
func (d *dir) openDir(name string) (*dir, *unix.Stat_t, error) {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	inner := name
	if d.parent == nil {
		inner = ""
	}
	return newDir(fd, d, inner, &st), &st, nil
}

func (d *dir) openat(name string, flags int) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	})
}

func (d *dir) stat(name string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return &st, err
}

// addMode gives an entry that is no link further permission bits. It works on
// entries of mode 0000 too, which cannot be opened.
func (d *dir) addMode(name string, st *unix.Stat_t, bits uint32) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Ino != st.Ino || now.Dev != st.Dev {
		return errChanged
	}
	// fchmod refuses O_PATH descriptors; their magic link leads to the very same
	// inode.
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), now.Mode&0o7777|bits)
}

// dirent is a directory entry; typ is one of unix.DT_….
type dirent struct {
	name string
	typ  uint8
}

// list reads the directory, sorted by name. buf is scratch space.
func (d *dir) list(buf []byte) ([]dirent, error) {
	var entries []dirent
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(d.fd, buf) })
		if err != nil {
			return nil, os.NewSyscallError("getdents", err)
		}
		if n == 0 {
			break
		}
		entries = appendDirents(entries, buf[:n])
	}
	slices.SortFunc(entries, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

// appendDirents takes struct linux_dirent64 apart: inode 8 bytes, offset 8,
// length 2, type 1, name with its NUL.
func appendDirents(entries []dirent, b []byte) []dirent {
	for len(b) > 19 {
		record := b[:binary.NativeEndian.Uint16(b[16:])]
		b = b[len(record):]
		name, _, _ := strings.Cut(string(record[19:]), "\x00")
		if name != "." && name != ".." {
			entries = append(entries, dirent{name, record[18]})
		}
	}
	return entries
}

// lineage is the directories from the object down to where a walk is. It keeps
// only the innermost ones open, so that depth costs no descriptors.
type lineage []ancestor

type ancestor struct {
	*dir
	held bool
}

func (l *lineage) push(d *dir) {
	*l = append(*l, ancestor{d, true})
	if i := len(*l) - 1 - openDirs; i >= 0 && (*l)[i].held {
		(*l)[i].held = false
		(*l)[i].release()
	}
}

func (l lineage) top() *dir { return l[len(l)-1].dir }

// pop goes back to the parent, which is open afterwards.
func (l *lineage) pop() error {
	s := *l
	child := s[len(s)-1]
	*l = s[:len(s)-1]
	defer child.release()
	if len(*l) == 0 {
		return nil
	}
	up := &(*l)[len(*l)-1]
	if up.held {
		return nil
	}
	fd, err := child.openat("..", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return insideError(child.inside(".."), err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (st.Dev != up.dev || st.Ino != up.ino) {
		err = unfit("it was moved while it was read")
	}
	if err != nil {
		unix.Close(fd)
		return insideError(child.inside(".."), err)
	}
	st.Mtim = up.mtime
	*up = ancestor{newDir(fd, up.parent, up.name, &st), true}
	return nil
}

func (l *lineage) close() {
	for _, a := range *l {
		if a.held {
			a.release()
		}
	}
	*l = nil
}

// retry repeats a call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
