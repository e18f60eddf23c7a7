package state

import (
	"io/fs"

	"golang.org/x/sys/unix"

	"storefs/rawfile"
)

// writeCanonical writes a file as those of store objects are, under a name that
// nothing has. What it could not finish stays.
func writeCanonical(path string, text []byte) error {
	if err := rawfile.Write(path, text, 0o444); err != nil {
		return err
	}
	return setTimes(path)
}

// setTimes gives a file, which may be a link, the time that those of store objects have.
func setTimes(path string) error {
	second := unix.Timespec{Sec: 1}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{second, second}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set times of", Path: path, Err: err}
	}
	return nil
}
