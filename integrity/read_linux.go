package integrity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// readBlock is how much is read at a time.
const readBlock = 256 << 10

// maxPath leaves room below the 4096 bytes that one system call accepts.
const maxPath = 4000

// readFile hashes the file or link at path inside of the object at dir. No link
// is followed.
func readFile(ctx context.Context, dir, path string) (kind store.Kind, sum [sha256.Size]byte, err error) {
	at, path, err := approach(dir, path)
	if err != nil {
		return kind, sum, err
	}
	defer unix.Close(at)
	fd, err := openBelow(at, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err == unix.ELOOP {
		return readLink(at, path)
	}
	if err != nil {
		return kind, sum, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return kind, sum, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return kind, sum, damaged("it is neither a file nor a link")
	}
	kind = store.KindRegular
	if st.Mode&0o100 != 0 {
		kind = store.KindExecutable
	}
	sum, err = readAll(ctx, fd, st.Size)
	return kind, sum, err
}

// openInside opens what is at path inside of the object at dir. No link is followed.
func openInside(dir, path string, flags uint64) (int, error) {
	at, path, err := approach(dir, path)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return openBelow(at, cmp.Or(path, "."), flags)
}

// approach opens a directory, in the object at dir, from which the rest of path fits
// one system call.
func approach(dir, path string) (at int, rest string, err error) {
	at, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", err
	}
	for len(path) > maxPath {
		cut := strings.LastIndexByte(path[:maxPath], '/')
		fd, err := openBelow(at, path[:cut], unix.O_PATH|unix.O_DIRECTORY)
		unix.Close(at)
		if err != nil {
			return -1, "", err
		}
		at, path = fd, path[cut+1:]
	}
	return at, path, nil
}

func readLink(at int, path string) (kind store.Kind, sum [sha256.Size]byte, err error) {
	fd, err := openBelow(at, path, unix.O_PATH)
	if err != nil {
		return kind, sum, err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err == unix.ENOENT {
		err = unix.ELOOP // some other component is the link
	}
	if err != nil {
		return kind, sum, err
	}
	return store.KindSymlink, sha256.Sum256(buf[:n]), nil
}

func readAll(ctx context.Context, fd int, size int64) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	buf := make([]byte, min(readBlock, size+1))
	for {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return sum, err
		case n == 0:
			return [sha256.Size]byte(h.Sum(nil)), nil
		default:
			h.Write(buf[:n])
		}
	}
}

// openBelow opens the path below dir. It follows no link: the last component may
// be one only for O_PATH.
func openBelow(dir int, path string, flags uint64) (int, error) {
	how := &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, path, how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// Transient reports whether err says something of this machine's moment, and
// nothing of the file.
func Transient(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
