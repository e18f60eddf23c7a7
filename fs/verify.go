package fs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"storefs/store"
)

// verify compares the file, link or directory n with what was registered, unless that
// was done before. It comes before everything that gives contents to the kernel:
// what that has in its page cache is not asked for again.
func (r *raw) verify(q *request, n *node) fuse.Status {
	if r.verifier == nil || n.verified.Load() {
		return fuse.OK
	}
	if n.stale() {
		return fuse.Status(syscall.ESTALE) // it is another object that would be compared
	}
	st := r.compare(q, n.path())
	if st.Ok() && n.stale() {
		return fuse.Status(syscall.ESTALE) // it was replaced, and that was compared
	}
	switch st {
	case fuse.OK:
		n.verified.Store(true)
	case status(errKilled):
	default:
		// A repair puts another file into its place.
		r.data.forget(n.id)
	}
	return st
}

// verifyEmpty is for a file called name in parent that st describes, before its
// attributes reach the kernel, which never reads a file without bytes.
func (r *raw) verifyEmpty(q *request, parent *node, name string, st *unix.Stat_t) fuse.Status {
	if r.verifier == nil || st.Size != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fuse.OK
	}
	if parent.stale() {
		return fuse.Status(syscall.ESTALE)
	}
	if st := r.compare(q, append(parent.path(), name)); !st.Ok() {
		return st
	}
	// It may have been replaced meanwhile, and that was compared: the kernel asks again.
	now, there, err := r.backing.statIn(parent, name)
	switch {
	case err != nil:
		return lost(err)
	case !there || now.Size != 0 || now.Mode&unix.S_IFMT != unix.S_IFREG || parent.stale():
		return fuse.Status(syscall.ESTALE)
	}
	return fuse.OK
}

// verifyFound is for what a lookup finds in a directory whose contents are not what was
// registered, in which something may be as it was: a file or link is if it is whole,
// and a directory is asked of when something is looked up there.
func (r *raw) verifyFound(q *request, parent *node, name string, st *unix.Stat_t) fuse.Status {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fuse.OK
	}
	return r.compare(q, append(parent.path(), name))
}

// verifyTop is for the valid object e, before anything of it reaches the kernel: err is
// from looking at it, and st describes it if that is nil. What is inside is asked of
// when it is looked up.
func (r *raw) verifyTop(q *request, e Entry, st *unix.Stat_t, err error) fuse.Status {
	if r.verifier == nil || err == nil && (e.Kind == store.KindUnknown || e.Kind == kindOf(st)) {
		return fuse.OK
	}
	return r.compare(q, []string{e.Name})
}

func kindOf(st *unix.Stat_t) store.Kind {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return store.KindDirectory
	case unix.S_IFLNK:
		return store.KindSymlink
	}
	if st.Mode&0o100 != 0 {
		return store.KindExecutable
	}
	return store.KindRegular
}

func (r *raw) compare(q *request, path []string) fuse.Status {
	r.relieve()
	ctx, release := r.whileWanted(q)
	defer release()
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
	case context.Cause(ctx) == errKilled:
		return status(errKilled)
	case r.ctx.Err() != nil:
		return status(errEnded)
	case errors.Is(err, store.ErrNotValid):
		return fuse.Status(syscall.ESTALE)
	}
	return status(err)
}

// whileWanted returns a context that ends with the mount, and with errKilled when the
// caller of q has to be let go: the kernel does not let one be killed whose request
// was read, before that is answered.
func (r *raw) whileWanted(q *request) (ctx context.Context, release func()) {
	ctx, stop := context.WithCancelCause(r.ctx)
	c, interrupted := callerOf(q), q.cancelled()
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-interrupted:
		case <-ctx.Done():
			return
		}
		ticker := time.NewTicker(signalPoll)
		defer ticker.Stop()
		for !c.dying("") {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
		stop(errKilled)
	})
	return ctx, func() {
		stop(nil)
		watch.Wait()
	}
}
