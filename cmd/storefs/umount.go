package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"storefs/daemon"
	"storefs/fs"
	"storefs/state"
	"storefs/store"
)

type umountCmd struct{}

func (*umountCmd) Help() string {
	return `Ends the mount of the state directory, as SIGTERM does: blocked callers get an error, running builds are cancelled, and the next mount goes on where they were. A mount that is in use is detached. Returns when the process has ended. Also clears the remains of a mount whose process died.`
}

func (c *umountCmd) Run(ctx context.Context, a *app) error {
	began := time.Now()
	for {
		client, err := a.dial(ctx, true)
		if errors.Is(err, daemon.ErrNoServer) {
			back, err := c.clear(ctx, a)
			if back && ctx.Err() == nil {
				continue
			}
			return err
		}
		if errors.Is(err, daemon.ErrGone) && time.Since(began) < patience {
			// It was killed, and its socket goes last: then there are the remains of its mount.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return fmt.Errorf("umount: %w", err)
		}
		h := client.Hello()
		if h.Mountpoint == "" && h.Role == "mount" && ctx.Err() == nil {
			// It is about to mount, or to take the mount over.
			client.Close()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		back, err := c.stop(ctx, a, client)
		client.Close()
		if back || errors.Is(err, daemon.ErrGone) && state.Held(a.State) && ctx.Err() == nil {
			continue // a server that was killed on its way to the end
		}
		return err
	}
}

// stop ends the server, which gives the mount up, and waits until nothing is left
// of both. It reports whether the server came back instead.
func (c *umountCmd) stop(ctx context.Context, a *app, client *daemon.Client) (back bool, err error) {
	hello := client.Hello()
	if hello.Mountpoint == "" {
		return false, fmt.Errorf("umount: %s is not mounted", hello.Store)
	}
	server, err := watchEnd(hello.PID)
	if err != nil {
		return false, fmt.Errorf("umount: wait for the owner: %w", err)
	}
	defer server.close()
	holder, err := watchEnd(hello.Holder)
	if err != nil {
		return false, fmt.Errorf("umount: wait for the holder: %w", err)
	}
	defer holder.close()
	if err := client.Stop(ctx); err != nil {
		return false, fmt.Errorf("umount: %w", err)
	}
	for !server.ended(100 * time.Millisecond) {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	for !holder.ended(20 * time.Millisecond) {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		// It does not end if it has started another server.
		if next, err := daemon.Dial(ctx, a.socket(), true); err == nil {
			back = next.Hello().Holder == hello.Holder
			next.Close()
			if back {
				return true, nil
			}
		}
	}
	// It has said to its own stderr, or log, if it could not unmount.
	if dir := string(hello.Store); fs.Remains(dir) {
		if _, err := fs.Clear(dir); err != nil {
			return false, fmt.Errorf("umount: %s is no longer served, and still mounted: %w", dir, err)
		}
	}
	return false, nil
}

// end is that of a process, for which one prepares to wait before it is asked to
// end: afterwards its number may be another's. The zero end is there already.
type end struct{ pidfd int }

// watchEnd watches no process if pid is 0, or of one that is no more.
func watchEnd(pid int) (end, error) {
	if pid == 0 {
		return end{}, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return end{}, nil
	}
	if err != nil {
		return end{}, fmt.Errorf("pidfd_open does not work here, it needs no filter against it (kill %d ends the mount as well): %w", pid, err)
	}
	return end{fd}, nil
}

// ended waits no longer than patience, and reports whether it is there.
func (e end) ended(patience time.Duration) bool {
	if e.pidfd == 0 {
		return true
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.pidfd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

func (e end) close() {
	if e.pidfd != 0 {
		unix.Close(e.pidfd)
	}
}

// clear detaches a mount that nobody serves any more, also if the state cannot be
// opened: damage to it must not keep anybody from its directories. It reports
// whether a server has come back, or another one begun, instead.
func (c *umountCmd) clear(ctx context.Context, a *app) (back bool, err error) {
	unopened := a.connect(ctx, ownerOptions{role: "umount"}, func(c *daemon.Client) error {
		h := c.Hello()
		if back = h.Role == "mount"; !back {
			// The owner is no mount, and does not end before its client has gone.
			err = clearAt(h.Store)
		}
		return nil
	})
	if back || err != nil {
		return back, err
	}
	if unopened == nil || errors.Is(unopened, store.ErrInUse) {
		return false, unopened
	}
	dir, e := state.StoreDir(a.State)
	if e != nil || clearAt(dir) != nil {
		return false, unopened
	}
	return false, fmt.Errorf("umount: %s is cleared, but its state cannot be used: %w", dir, unopened)
}

// clearAt detaches the remains of a mount. What somebody serves there is another
// state's, which may have the same store directory.
func clearAt(dir store.Dir) error {
	cleared, err := fs.Clear(string(dir))
	switch {
	case err != nil:
		return fmt.Errorf("umount: %s is not mounted by this state: %w", dir, err)
	case !cleared:
		return fmt.Errorf("umount: %s is not mounted", dir)
	}
	return nil
}
