package fs

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"storefs/store"
)

// verify compares the file or link n with what was registered, unless that was
// done before. It comes before everything that gives contents to the kernel:
// what that has in its page cache is not asked for again.
func (r *raw) verify(n *node) fuse.Status {
	if r.verifier == nil || n.verified.Load() {
		return fuse.OK
	}
	if n.stale() {
		return fuse.Status(syscall.ESTALE) // it is another object that would be compared
	}
	if st := r.compare(n.path()); !st.Ok() {
		// A repair puts another file into its place.
		r.data.forget(n.id)
		return st
	}
	n.verified.Store(true)
	return fuse.OK
}

// verifyEmpty is for a file called name in parent that st describes, before its
// attributes reach the kernel, which never reads a file without bytes.
func (r *raw) verifyEmpty(parent *node, name string, st *unix.Stat_t) fuse.Status {
	if r.verifier == nil || st.Size != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fuse.OK
	}
	if parent.stale() {
		return fuse.Status(syscall.ESTALE)
	}
	return r.compare(append(parent.path(), name))
}

func (r *raw) compare(path []string) fuse.Status {
	r.relieve()
	ctx := r.ctx
	if r.limit > 0 {
		// The check goes on, and whoever asks again finds it further on.
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, r.limit)
		defer stop()
	}
	err := r.verifier.Verify(ctx, path[0], strings.Join(path[1:], "/"))
	switch {
	case err == nil:
		return fuse.OK
	case r.ctx.Err() != nil:
		return status(errEnded)
	case errors.Is(err, store.ErrNotValid):
		return fuse.Status(syscall.ESTALE)
	}
	return status(err)
}
