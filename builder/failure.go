package builder

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// failed is an error that says which cause it is to be shown with. Any other
// error of a build is the machine's fault.
type failed struct {
	cause   store.Cause
	message string
	status  int
	signal  string
}

func (f *failed) Error() string { return f.message }

func fail(cause store.Cause, format string, args ...any) error {
	return &failed{cause: cause, message: fmt.Sprintf(format, args...)}
}

// inputError is why an input cannot be shown. That it is valid and not there is
// nothing that the derivation could help.
func inputError(base string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("input %s: %w: storefs verify --repair mends it", base, err)
	}
	return fmt.Errorf("input %s: %w", base, err)
}

// failure makes of err what the caller of Build gets.
func (b *build) failure(err error) *store.Failure {
	f := &store.Failure{
		Path:    b.job.Drv,
		Cause:   store.CauseSystem,
		Message: strings.ReplaceAll(err.Error(), "\n", " "),
		Time:    time.Now(),
		Builder: b.job.Derivation.Builder,
	}
	var known *failed
	switch {
	case errors.As(err, &known):
		f.Cause, f.Status, f.Signal = known.cause, known.status, known.signal
	case isFull(err):
		f.Cause = store.CauseNoSpace
	case errors.Is(err, store.ErrUnfit):
		f.Cause = store.CauseRefused
	}
	if b.log != nil && b.log.file != nil {
		f.Log, f.LogFile = b.log.last(), b.log.path
	}
	if b.builtin != nil && f.Status == 1 && len(f.Log) > 0 {
		f.Message += ": " + f.Log[len(f.Log)-1] // it says why
	}
	if b.ran && (f.Cause == store.CauseBuilder || f.Cause == store.CauseRefused || f.Cause == store.CauseSystem) {
		f.Message += b.memory.ranOut(b.shortages)
	}
	if b.ran && (f.Cause == store.CauseBuilder || f.Cause == store.CauseRefused) && diskFull(b.opts.Builds) {
		f.Cause = store.CauseNoSpace
		f.Message += "; the disk is full"
	}
	return f
}

// isFull reports whether err means a full disk.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// fullBytes is how little room is none.
const fullBytes = 8 << 20

// diskFull reports whether so little is left at dir that a builder may have
// failed for it. The measure is Nix's: 8 MiB, or no inode.
func diskFull(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	return st.Bavail*uint64(st.Bsize) < fullBytes || st.Files > 0 && st.Ffree == 0 || quotaFull(dir)
}

// quotaFull reports whether a quota leaves no more than that. That of a user, or of a
// subvolume, is in no number of the file system: so a file without a name asks for it.
func quotaFull(dir string) bool {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return isFull(err)
	}
	defer unix.Close(fd)
	return isFull(unix.Fallocate(fd, 0, 0, fullBytes))
}
