package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"storefs/normaliser"
	"storefs/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("long", 40))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{filepath.Join(dir, "socket"), filepath.Join(long, "socket")} {
		if _, err := Dial(t.Context(), socket, false); !errors.Is(err, ErrNoServer) {
			t.Errorf("no socket: %v", err)
		}
		// What a dead owner leaves: a socket that nobody listens at.
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := Dial(t.Context(), socket, false); !errors.Is(err, ErrNoServer) {
			t.Errorf("stale socket: %v", err)
		}
		if l, err = Listen(socket); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		serving(t, newFake(t).server(), l)
		c := dial(t, socket)
		if c.Hello().PID != 7 || c.Hello().Store != "/nix/store" {
			t.Errorf("hello: %+v", c.Hello())
		}
	}
}

// An owner that does not answer, as one that is stopped, does not hold a client.
func TestOwnerDoesNotAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	dialled := make(chan error, 1)
	go func() {
		_, err := Dial(ctx, socket, false)
		dialled <- err
	}()
	select {
	case err := <-dialled:
		if !errors.Is(err, store.ErrCancelled) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the client waits for ever")
	}
}

func TestErrorsTravel(t *testing.T) { eachWay(t, testErrorsTravel) }

func testErrorsTravel(t *testing.T, dial dialer) {
	failure := &store.Failure{Path: path("a.drv"), Cause: store.CauseTimeout, Message: "timed out", Log: []string{"x"}}
	other := &store.Failure{Path: path("b.drv"), Cause: store.CauseBuilder, Message: "status 1", Chain: []store.Path{path("c.drv"), path("b.drv")}}
	for _, want := range []error{
		failure, other,
		errors.Join(failure, other),
		errors.Join(errors.New("read: x"), store.ErrBadPath),
	} {
		f := newFake(t)
		f.realise = func(context.Context, normaliser.Request) (*normaliser.Result, error) {
			return &normaliser.Result{Targets: []normaliser.Target{{Path: path("a.drv")}}}, want
		}
		s, socket := f.serve()
		res, err := dial(t, s, socket).Realise(t.Context(), RealiseRequest{}, nil)
		if err == nil || err.Error() != want.Error() {
			t.Errorf("%q instead of %q", err, want)
		}
		if len(res.Targets) != 1 {
			t.Errorf("results: %v", res)
		}
		for _, k := range kinds {
			if errors.Is(err, k.err) != errors.Is(want, k.err) {
				t.Errorf("errors.Is(%q, %q) = %v", err, k.err, errors.Is(err, k.err))
			}
		}
		if d := cmp.Diff(Failures(want), Failures(err)); d != "" {
			t.Error(d)
		}
	}
}

func TestDrainWaitsForClients(t *testing.T) {
	f := newFake(t)
	begun, release := make(chan struct{}), make(chan struct{})
	f.realise = func(context.Context, normaliser.Request) (*normaliser.Result, error) {
		close(begun)
		<-release
		return nil, nil
	}
	s, socket := f.serve()
	c := dial(t, socket)
	watcher, err := Dial(t.Context(), socket, true)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	watched := make(chan error, 1)
	go func() { watched <- watcher.Watch(t.Context(), false, func(Seen) {}) }()
	realised := make(chan error, 1)
	go func() {
		_, err := c.Realise(t.Context(), RealiseRequest{}, nil)
		realised <- err
	}()
	<-begun
	drained := make(chan struct{})
	var told atomic.Int32
	go func() {
		s.Drain(t.Context(), func(n int) { told.Store(int32(n)) })
		close(drained)
	}()
	for end := time.Now().Add(time.Minute); ; {
		c, err := Dial(t.Context(), socket, false)
		if errors.Is(err, ErrClosing) {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("new client of a closing owner: %v", err)
		}
		c.Close()
	}
	for told.Load() == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-drained:
		t.Fatal("did not wait for the client")
	default:
	}
	close(release)
	if err := <-realised; err != nil {
		t.Errorf("a request of a draining owner: %v", err)
	}
	// The client goes on, as commands do, before it leaves.
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
	<-drained
	if told.Load() != 1 {
		t.Errorf("told of %d clients", told.Load())
	}
	// Who only watches sees it through to the end.
	late, err := Dial(t.Context(), socket, true)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := late.Status(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-watched:
		t.Errorf("watch ended before the owner: %v", err)
	default:
	}
	s.Close()
	if err := <-watched; err != nil {
		t.Errorf("watch: %v", err)
	}
}

func TestDrainCancelled(t *testing.T) {
	f := newFake(t)
	begun := make(chan struct{})
	f.realise = func(ctx context.Context, _ normaliser.Request) (*normaliser.Result, error) {
		close(begun)
		<-ctx.Done()
		return nil, store.ErrCancelled
	}
	s, socket := f.serve()
	c := dial(t, socket)
	realised := make(chan error, 1)
	go func() {
		_, err := c.Realise(t.Context(), RealiseRequest{}, nil)
		realised <- err
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Drain(ctx, func(int) {})
	if err := <-realised; !errors.Is(err, store.ErrCancelled) {
		t.Errorf("error: %v", err)
	}
}

// TestCutOff: an owner that dies in the middle of an answer.
func TestCutOff(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Storefs-Error\r\n\r\n3\r\nabc\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Storefs-Error\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"",
	} {
		socket := filepath.Join(t.TempDir(), "socket")
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				answerRaw(conn, answer)
			}
		}()
		c, err := Dial(t.Context(), socket, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Export(t.Context(), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "has gone") {
			t.Errorf("export after %q: %v", answer, err)
		}
		if _, err := c.Realise(t.Context(), RealiseRequest{}, nil); err == nil {
			t.Errorf("realise after %q: no error", answer)
		}
		c.Close()
		l.Close()
		<-served
	}
}

// answerRaw answers one request; the first of a client with a hello.
func answerRaw(conn net.Conn, answer string) {
	b := make([]byte, 64<<10)
	n, _ := conn.Read(b)
	if bytes.Contains(b[:n], []byte("/session")) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}\n")
	} else {
		_, _ = io.WriteString(conn, answer)
	}
	conn.Close()
}

func TestOtherVersion(t *testing.T) {
	_, socket := newFake(t).serve()
	c := dial(t, socket)
	_, err := c.get(t.Context(), "../v2/session", nil)
	if err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("error: %v", err)
	}
}

func TestStop(t *testing.T) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, socket)
	if err := c.Stop(t.Context()); err != nil || f.stopped != 1 {
		t.Errorf("%v, stopped %d times", err, f.stopped)
	}
	s.Stop = nil
	if err := c.Stop(t.Context()); !errors.Is(err, store.ErrRefused) {
		t.Errorf("an owner that is no mount: %v", err)
	}
}

// Whoever is cut off by the owner's end hears so once.
func TestEndingIsSaidOnce(t *testing.T) {
	f := newFake(t)
	begun := make(chan struct{})
	f.realise = func(ctx context.Context, _ normaliser.Request) (*normaliser.Result, error) {
		close(begun)
		<-ctx.Done()
		return nil, fmt.Errorf("realise: %w: %w", store.ErrCancelled, context.Cause(ctx))
	}
	s, socket := f.serve()
	c := dial(t, socket)
	realised := make(chan error, 1)
	go func() {
		_, err := c.Realise(t.Context(), RealiseRequest{}, nil)
		realised <- err
	}()
	<-begun
	s.Close()
	if err := <-realised; !errors.Is(err, ErrClosing) || strings.Count(err.Error(), ErrClosing.Error()) != 1 {
		t.Errorf("%v", err)
	}
}

// On a disk without a free inode, the socket of a dead owner makes room for the next.
func TestSocketWithoutInode(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=2"); err != nil { // one is of the directory
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	socket := filepath.Join(dir, "socket")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if l, err = Listen(socket); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := os.Stat(socket); err != nil {
		t.Error(err)
	}
}
