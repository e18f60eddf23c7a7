// Package integrity knows what each file of a store object was when it was
// registered, and finds out whether it still is: the hashes of the files beside
// the object's NAR hash (Files), which files were looked at since the machine
// was started (Memory), and the comparison itself (Checker). It repairs
// nothing, and reads the objects where they really live, never through a mount.
package integrity

import (
	"fmt"

	"storefs/store"
)

// SmallObject is up to how many bytes of NAR an object is compared as a whole.
// That takes less than a millisecond, and most objects are smaller: they need
// no record of their files.
const SmallObject = 256 << 10

// byFile reports whether an object is compared file by file. For one that is a
// single file, the NAR hash says the same.
func byFile(kind store.Kind, narSize int64) bool {
	return kind == store.KindDirectory && narSize > SmallObject
}

// damaged is the error of a file that is not what was registered.
func damaged(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, store.ErrHashMismatch)...)
}
