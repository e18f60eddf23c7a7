package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"storefs/daemon"
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
			return c.clear(ctx, a)
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
		return end{}, fmt.Errorf("process %d: %w", pid, err)
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
// opened: damage to it must not keep anybody from its directories.
func (c *umountCmd) clear(ctx context.Context, a *app) error {
	var dir store.Dir
	unopened := a.connect(ctx, ownerOptions{role: "umount"}, func(c *daemon.Client) error {
		dir = c.Hello().Store
		return nil
	})
	if unopened != nil {
		var err error
		if dir, err = state.StoreDir(a.State); err != nil || errors.Is(unopened, store.ErrInUse) {
			return unopened
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(string(dir)))
	mounted := len(mounts) > 0 && mounts[0].FSType == "fuse.storefs"
	switch {
	case unopened != nil && (!mounted || !dead(dir)):
		return unopened // it may be somebody else's
	case err != nil:
		return fmt.Errorf("umount %s: %w", dir, err)
	case !mounted:
		return fmt.Errorf("umount: %s is not mounted", dir)
	}
	err = detach(ctx, dir)
	if err == nil && unopened != nil {
		return fmt.Errorf("umount: %s is cleared, but its state cannot be used: %w", dir, unopened)
	}
	return errors.Join(err, unopened)
}

// dead reports whether nobody has the connection of the mount at dir any more.
func dead(dir store.Dir) bool {
	var st unix.Statfs_t
	err := unix.Statfs(string(dir), &st)
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// detach unmounts as whoever may: root, or fusermount3 for the mount's user.
func detach(ctx context.Context, dir store.Dir) error {
	err := unix.Unmount(string(dir), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EPERM) {
		out, e := exec.CommandContext(ctx, "fusermount3", "-u", "-z", "--", string(dir)).CombinedOutput()
		if err = e; e != nil && len(out) > 0 {
			err = errors.New(strings.TrimSpace(string(out)))
		}
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", dir, err)
	}
	return nil
}
