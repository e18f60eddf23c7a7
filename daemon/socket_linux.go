package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNoServer: nobody answers at the socket.
var ErrNoServer = errors.New("no server")

// maxSocketPath is what sockaddr_un holds, less the final NUL.
const maxSocketPath = 107

// Listen makes the socket, which only its user can connect to. Whoever calls
// it owns the state directory, so a socket that is there already is that of a
// dead owner and is replaced. Closing the listener leaves the file: remove it
// first, so that nobody connects in vain.
func Listen(path string) (net.Listener, error) {
	dir, short, err := openDir(path)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	defer dir.Close()
	// Made under another name and renamed when its mode is right: it is never
	// open for others, not even for a moment.
	fresh := short + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		// There is no inode but that of a socket which nobody listens at any more.
		if os.Remove(short) == nil {
			l, err = net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, short)
	}
	if err != nil {
		l.Close()
		_ = os.Remove(fresh) // or the next owner does
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return l, nil
}

// dialSocket connects, or returns ErrNoServer.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	dir, short, err := openDir(path)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoServer, path, err)
	}
	defer dir.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", short)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoServer, path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return c, nil
}

// openDir opens the socket's directory and names the socket through it where
// its own path is too long for a socket's address. The name is good as long as
// the directory is open.
func openDir(path string) (*os.File, string, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	if len(path)+len(".new") <= maxSocketPath {
		return dir, path, nil
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), nil
}
