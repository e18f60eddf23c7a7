package pressure

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// fake tells of a shortage when the test says so.
type fake struct {
	tell   chan struct{}
	closed bool
}

func (f *fake) wait(ctx context.Context) error {
	select {
	case <-f.tell:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) Close() error {
	f.closed = true
	return nil
}

// told collects what a gauge says.
type told struct {
	mu      sync.Mutex
	reasons []string
}

func (h *told) hold(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reasons = append(h.reasons, reason)
}

func (h *told) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.reasons, want) {
		t.Errorf("said %q, want %q", h.reasons, want)
	}
	h.reasons = nil
}

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{tell: make(chan struct{})}
		g := &Gauge{memory: func() (trigger, error) { return f, nil }}
		var h told
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); g.Run(ctx, h.hold) }()
		time.Sleep(time.Hour)
		h.expect(t)
		// As long as it lasts, the kernel tells again in every window.
		for range 5 {
			f.tell <- struct{}{}
			time.Sleep(window)
		}
		h.expect(t, "memory is short")
		time.Sleep(quiet)
		h.expect(t, "")
		f.tell <- struct{}{}
		h.expect(t, "memory is short")
		cancel()
		<-done
		synctest.Wait() // Run does not wait for that
		if !f.closed {
			t.Error("the trigger is open still")
		}
	})
}

// What is so when it begins is said at once.
func TestLoadFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gauge{load: 4, memory: func() (trigger, error) { return nil, errors.New("no such thing") }, running: func() (int, error) { return 5, nil }}
		var h told
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); g.Run(ctx, h.hold) }()
		h.expect(t, "the load is above 4")
		cancel()
		<-done
	})
}

func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, failure := 3, error(nil)
		set := func(n int, err error) {
			mu.Lock()
			defer mu.Unlock()
			running, failure = n, err
		}
		g := &Gauge{load: 4, memory: func() (trigger, error) { return nil, errors.New("no such thing") }, running: func() (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return running, failure
		}}
		var h told
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); g.Run(ctx, h.hold) }()
		time.Sleep(2 * sample)
		h.expect(t)
		set(5, nil)
		time.Sleep(2 * sample)
		h.expect(t, "the load is above 4")
		// What cannot be read holds nobody up.
		set(5, errors.New("oops"))
		time.Sleep(2 * sample)
		h.expect(t, "")
		cancel()
		<-done
	})
}

func TestRunnable(t *testing.T) {
	if n, err := parseRunnable("0.20 0.18 0.12 3/80 11206\n"); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := parseRunnable("nonsense"); err == nil {
		t.Error("nonsense was read")
	}
	if _, err := runnable(); err != nil {
		t.Error(err)
	}
}

// A socket with urgent data polls as the kernel's trigger does.
func TestUrgent(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	p, err := newPSI(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := unix.Sendto(pair[1], []byte("x"), unix.MSG_OOB, nil); err != nil {
		t.Skipf("no urgent data on unix sockets: %v", err)
	}
	if err := p.wait(t.Context()); err != nil {
		t.Error(err)
	}
	if _, _, err := unix.Recvfrom(pair[0], make([]byte, 1), unix.MSG_OOB); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
}

// The real thing opens, and ends when it is told to.
func TestKernel(t *testing.T) {
	m, err := memoryTrigger()
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.wait(ctx) }()
	time.Sleep(10 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// What ends the wait writes into nothing that is opened after it.
func TestWaitLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var next []int
	defer func() {
		for _, fd := range next {
			unix.Close(fd)
		}
	}()
	for range 200 {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		p, err := newPSI(fd)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		p.Close()
		for range 2 { // they have the numbers of what was closed
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			next = append(next, fd)
		}
	}
	time.Sleep(10 * time.Millisecond)
	for _, fd := range next {
		if n, err := unix.Read(fd, make([]byte, 8)); err != unix.EAGAIN {
			t.Fatalf("somebody has written to it: %d, %v", n, err)
		}
	}
}
