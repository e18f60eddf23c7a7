package integrity

import (
	"bytes"
	"crypto/sha256"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// compareDirectory compares what is in the directory at path inside of the object at
// dir, by names and kinds, with its entry in files.
func compareDirectory(dir, path string, files *Files, was []byte) error {
	fd, err := openInside(dir, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	children := make([][]byte, 0, len(names))
	for _, name := range names {
		inner := strings.TrimPrefix(path+"/"+name, "/")
		kind, err := kindAt(fd, name)
		if err != nil {
			return err
		}
		if kind == store.KindDirectory {
			if _, _, ok := files.find(inner); !ok {
				continue // without files, as when it was recorded
			}
		}
		key := fileKey(inner)
		children = append(children, append(key[:], kinds[kind]))
	}
	slices.SortFunc(children, bytes.Compare)
	h := sha256.New()
	for _, c := range children {
		h.Write(c)
	}
	if !bytes.Equal(h.Sum(nil), was[1:]) {
		return damaged("what is in it has other names, or is of other kinds, than what was registered")
	}
	return nil
}

// isDirectory reports whether there is a directory at path inside of the object at dir.
// It fails only where that says nothing of what is there.
func isDirectory(dir, path string) (bool, error) {
	fd, err := openInside(dir, path, unix.O_PATH|unix.O_DIRECTORY)
	switch {
	case err == nil:
		unix.Close(fd)
		return true, nil
	case Transient(err):
		return false, err
	}
	return false, nil
}

// kindAt is of what kind the thing called name in the directory is: unknown if it is
// none that a store object may have.
func kindAt(dir int, name string) (store.Kind, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return store.KindUnknown, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return store.KindDirectory, nil
	case unix.S_IFLNK:
		return store.KindSymlink, nil
	case unix.S_IFREG:
		if st.Mode&0o100 != 0 {
			return store.KindExecutable, nil
		}
		return store.KindRegular, nil
	}
	return store.KindUnknown, nil
}
