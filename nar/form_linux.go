package nar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// FormOptions say what is compared with the form that Ingest and Restore give.
type FormOptions struct {
	// Owner is whom all files have to belong to; -1 is anybody. Groups are not
	// looked at: what is made in a directory may have that of the directory, and
	// none has a right that others have not.
	Owner int
	// Strange is told of each file, link or directory that has another form: its path
	// inside, "" for the object itself, and all that is to be said of it. It is called from
	// several goroutines at once, in no order.
	Strange func(path string, what []string)
	// Linked, if set, is told in the same way of each file or link that has more than one
	// name, somewhere.
	Linked func(path string, file FileID, names uint64)
}

// FileID is which file it is, whatever names it has.
type FileID struct{ Device, Inode uint64 }

// HashForm is HashPath that compares, in the same read, the form of all that it reads.
func HashForm(ctx context.Context, path string, o FormOptions) (Summary, error) {
	s, err := summarise(ctx, path, reading{form: &form{o}}, nil)
	if err != nil {
		return Summary{}, fmt.Errorf("hash %s: %w", path, err)
	}
	return s, nil
}

// Form says what is strange about the form of what is at path, and looks at nothing
// inside of it.
func Form(path string, o FormOptions) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	f := form{o}
	return f.strange(&st, func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
}

// form compares the form of files, and changes nothing.
type form struct{ FormOptions }

// opened compares an open file or directory, an entry of d.
func (f *form) opened(d *dir, name string, fd int, st *unix.Stat_t) error {
	return f.compare(d, name, st, fdAttrs(fd))
}

// link compares a symbolic link.
func (f *form) link(d *dir, name string) error {
	st, err := d.stat(name)
	if err != nil {
		return err
	}
	return f.compare(d, name, st, pathAttrs(d, name))
}

func (f *form) compare(d *dir, name string, st *unix.Stat_t, attrs attrList) error {
	what, err := f.strange(st, attrs)
	if err != nil {
		return err
	}
	if len(what) > 0 {
		f.Strange(d.inside(name), what)
	}
	if f.Linked != nil && st.Nlink > 1 && typeOf(st) != unix.DT_DIR {
		f.Linked(d.inside(name), FileID{st.Dev, st.Ino}, uint64(st.Nlink))
	}
	return nil
}

func (f *form) strange(st *unix.Stat_t, attrs attrList) ([]string, error) {
	var what []string
	if mode, want := st.Mode&0o7777, canonMode(st); mode != want {
		what = append(what, fmt.Sprintf("its mode is %04o, not %04o", mode, want))
	}
	if f.Owner >= 0 && st.Uid != uint32(f.Owner) {
		what = append(what, fmt.Sprintf("its owner is %d, not %d", st.Uid, f.Owner))
	}
	if st.Mtim.Sec != canonTime || st.Mtim.Nsec != 0 {
		what = append(what, fmt.Sprintf("its time is %s, not %s", timeText(st.Mtim), timeText(unix.Timespec{Sec: canonTime})))
	}
	names, err := attrs.names()
	for _, attr := range names {
		what = append(what, fmt.Sprintf("it has the attribute %q", attr))
	}
	return what, err
}

// canonMode is the mode that a file of this kind has in the store; links have it from
// the kernel.
func canonMode(st *unix.Stat_t) uint32 {
	switch kindOf(st) {
	case store.KindSymlink:
		return st.Mode & 0o7777
	case store.KindRegular:
		return 0o444
	}
	return 0o555
}

func timeText(t unix.Timespec) string {
	return time.Unix(t.Unix()).UTC().Format("2006-01-02 15:04:05.999999999 MST")
}

// attrList lists the names of extended attributes, as listxattr(2) does.
type attrList func([]byte) (int, error)

func fdAttrs(fd int) attrList {
	return func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) }
}

// pathAttrs are those of an entry of d that may be a link, which cannot be opened for
// this, but be named through its directory.
func pathAttrs(d *dir, name string) attrList {
	return func(buf []byte) (int, error) { return unix.Llistxattr(entryPath(d, name), buf) }
}

func entryPath(d *dir, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name) }

// names are the attributes that no store object has: see keepAttr.
func (list attrList) names() ([]string, error) {
	n, err := list(nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	buf := make([]byte, n)
	if n, err = list(buf); err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var names []string
	for attr := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if attr != "" && !keepAttr(attr) {
			names = append(names, attr)
		}
	}
	return names, nil
}
