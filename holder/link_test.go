package holder

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Who is told to part ends, and whoever asked for that learns that it was done.
func TestUpgradeIsAnsweredAtTheEnd(t *testing.T) {
	for range 20 { // any of what ends it may be looked at first
		testUpgradeAtTheEnd(t)
	}
}

func testUpgradeAtTheEnd(t *testing.T) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	l := &Link{
		parted: make(chan struct{}), readied: make(chan struct{}), asking: make(chan struct{}, 1), refused: make(chan string), done: make(chan struct{}),
		socket: newSocket(pair[0]),
	}
	defer l.socket.close()
	close(l.readied)
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error)
	go func() { answers <- l.Upgrade(ctx, "program") }()
	if _, err := unix.Read(pair[1], make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	close(l.parted)
	close(l.done)
	cancel()
	if err := <-answers; err != nil {
		t.Error(err)
	}
}

// What the service manager may show keeps no server waiting, while its holder stands still.
func TestStatusWaitsForNobody(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := newSocket(pair[1])
	defer theirs.close()
	l := &Link{socket: newSocket(pair[0])}
	defer l.socket.close()
	said := make(chan struct{})
	go func() {
		defer close(said)
		for range 10_000 {
			l.Status("a line")
		}
	}()
	select {
	case <-said:
	case <-time.After(time.Minute):
		t.Fatal("it waits for the holder")
	}
	if p, err := theirs.receive(); err != nil || p.kind != packetStatus || p.text != "a line" {
		t.Errorf("%+v, %v", p, err)
	}
}
