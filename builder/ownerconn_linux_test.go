package builder

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// An owner to whom a frame could not be sent hears that there come no more.
func TestOwnerConnSendFails(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	// Who waits for room fails here, with EAGAIN.
	if err := unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 1000}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.SendmsgN(fds[0], make([]byte, 1024), nil, nil, unix.MSG_DONTWAIT)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	ownerConn(fds[0]).send(frame{})
	for b := make([]byte, 1<<16); ; {
		n, err := unix.Read(fds[1], b)
		if err != nil {
			t.Fatalf("the owner waits for a frame that was lost: %v", err)
		}
		if n == 0 {
			return
		}
	}
}
