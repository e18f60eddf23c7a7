package tree

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Size is how many bytes of a disk the tree at path takes up, as du says it: a file with
// several names counts once, and a hole takes up nothing. It is not whole if some of it
// cannot be read, or is deeper than a path can name. What is removed meanwhile is not
// there. The error is that of ctx, or of path itself.
func Size(ctx context.Context, path string) (bytes int64, whole bool, err error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	whole = true
	err = filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && p == path {
			return err
		}
		var st unix.Stat_t
		if err == nil {
			// A directory that cannot be read comes again, with an error.
			if err = unix.Lstat(p, &st); err == nil {
				if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
					i := inode{uint64(st.Dev), st.Ino}
					if seen[i] {
						return nil
					}
					seen[i] = true
				}
				bytes += st.Blocks * 512
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			whole = false
		}
		return nil
	})
	return bytes, whole, err
}
