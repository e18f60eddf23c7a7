package nar

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// readFile writes a regular file's node.
func (t *tree) readFile(d *dir, name string, out *blocks) error {
	fd, err := t.openFile(d, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if typ := typeOf(&st); typ != unix.DT_REG {
		return errChanged
	}
	if t.canon != nil {
		if err := t.canon.file(d, name, fd, &st); err != nil {
			return err
		}
	}
	if t.form != nil {
		if err := t.form.opened(d, name, fd, &st); err != nil {
			return err
		}
	}

	out.put("(", "type", "regular")
	if st.Mode&0o100 != 0 {
		out.put("executable", "")
	}
	out.put("contents")
	out.size(st.Size)
	// In the goroutine that reads: there are several, and the hash of the
	// archive has one of its own.
	var h hash.Hash
	if t.file != nil && d.parent != nil {
		h = sha256.New()
	}
	if err := readContents(fd, &st, out, h); err != nil {
		return err
	}
	if h != nil {
		t.file(d.inside(name), kindOf(&st), [sha256.Size]byte(h.Sum(nil)))
	}
	out.pad(st.Size)
	out.put(")")
	return nil
}

// readContents reads as much as st says that there is, and hashes it if h is
// not nil.
func readContents(fd int, st *unix.Stat_t, out *blocks, h hash.Hash) error {
	for left := st.Size; left > 0; {
		space := out.space()
		if out.err != nil {
			return out.err
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, space[:min(int64(len(space)), left)]) })
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n == 0 {
			return errChanged
		}
		if h != nil {
			h.Write(space[:n])
		}
		out.took(n)
		left -= int64(n)
	}
	// A write, also through a mapping, sets the time to now. In canonical files
	// even a coarse clock cannot hide it.
	var after unix.Stat_t
	if err := unix.Fstat(fd, &after); err != nil {
		return err
	}
	if after.Size != st.Size || after.Mtim != st.Mtim {
		return errChanged
	}
	return nil
}

// contents writes the contents of the regular file path to w.
func contents(ctx context.Context, path string, w io.Writer) error {
	base, name, err := openParent(path)
	if err != nil {
		return err
	}
	defer base.release()
	st, err := base.stat(name)
	if err != nil {
		return err
	}
	if typeOf(st) != unix.DT_REG {
		return unfit("it is not a regular file")
	}
	fd, err := base.openat(name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, st); err != nil {
		return err
	}
	p := newPipeline(ctx, []io.Writer{w})
	out := &blocks{fresh: p.fresh, give: p.put}
	if err := readContents(fd, st, out, nil); err != nil {
		p.fail(err)
	}
	out.flush()
	if out.err != nil {
		p.fail(out.err)
	}
	p.closeInput()
	return p.end()
}

// openFile opens a file for reading. One that its owner may not read gets the
// permission first, if it is to become canonical anyway.
func (t *tree) openFile(d *dir, name string) (int, error) {
	fd, err := d.openat(name, unix.O_RDONLY)
	if err != unix.EACCES || t.canon == nil {
		return fd, err
	}
	st, err := d.stat(name)
	if err != nil {
		return -1, err
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return -1, unfit("the setuid or setgid bit is set")
	}
	if err := d.addMode(name, st, 0o400); err != nil {
		return -1, os.NewSyscallError("chmod", err)
	}
	return d.openat(name, unix.O_RDONLY)
}

// readLink writes a symbolic link's node.
func (t *tree) readLink(d *dir, name string, out *blocks) error {
	if t.canon != nil {
		st, err := d.stat(name)
		if err != nil {
			return err
		}
		if err := t.canon.link(d, name, st); err != nil {
			return err
		}
	}
	if t.form != nil {
		if err := t.form.link(d, name); err != nil {
			return err
		}
	}
	var buf [maxTarget + 1]byte
	n, err := unix.Readlinkat(d.fd, name, buf[:])
	if err != nil {
		return os.NewSyscallError("readlink", err)
	}
	if n > maxTarget {
		return unfit("the target is too long")
	}
	if t.file != nil && d.parent != nil {
		t.file(d.inside(name), store.KindSymlink, sha256.Sum256(buf[:n]))
	}
	out.put("(", "type", "symlink", "target", string(buf[:n]), ")")
	return nil
}
