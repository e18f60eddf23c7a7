package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

func lockPaths(t testing.TB, n int) []store.Path {
	t.Helper()
	var out []store.Path
	for i := range n {
		out = append(out, must(store.TextPath(testStore, fmt.Sprint("p", i), nil, nil))(t))
	}
	return out
}

// Overlapping sets of paths exclude each other and do not block for ever.
func TestLockExcludes(t *testing.T) {
	s := newState(t)
	paths := lockPaths(t, 5)
	holders := make([]atomic.Int32, len(paths))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range 30 {
				pick := r.Perm(len(paths))[:2]
				unlock, err := s.Lock(ctx, []store.Path{paths[pick[0]], paths[pick[1]]}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for _, i := range pick {
					if holders[i].Add(1) != 1 {
						t.Errorf("two hold %s", paths[i])
					}
				}
				for _, i := range pick {
					holders[i].Add(-1)
				}
				unlock()
			}
		})
	}
	wg.Wait()
	// Nothing stays locked for other processes.
	f := must(os.Open(s.path("locks", lockFile)))(t)
	defer f.Close()
	all := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &all); err != nil || all.Type != unix.F_UNLCK {
		t.Errorf("left locked: %+v, %v", all, err)
	}
}

// The kernel goes through all locks of a file for each one more: of the outputs of a
// derivation that has many there are few.
func TestLockManyPaths(t *testing.T) {
	s := newState(t)
	unlock := must(s.Lock(context.Background(), lockPaths(t, 6<<sliceBits), nil))(t)
	defer unlock()
	if n := kernelLocks(t, s); n < 1 || n > 1<<sliceBits/8 {
		t.Errorf("%d locks", n)
	}
}

// Paths whose bytes are in one slice do not exclude each other within a process, and
// the slice is others' when the last of them is unlocked.
func TestLockOneSlice(t *testing.T) {
	s := newState(t)
	paths := lockPaths(t, 2<<sliceBits)
	slice := func(p store.Path) int { return slicesOf([]string{p.Base()})[0] }
	next := 1
	for slice(paths[next]) != slice(paths[0]) {
		if next++; next == len(paths) {
			t.Fatal("no two paths share a slice")
		}
	}
	first := must(s.Lock(context.Background(), paths[:1], nil))(t)
	second := must(s.Lock(context.Background(), paths[next:next+1], nil))(t)
	for i, unlock := range []func(){first, second} {
		if n := kernelLocks(t, s); n != 1 {
			t.Errorf("after %d are unlocked, %d locks", i, n)
		}
		unlock()
	}
	if n := kernelLocks(t, s); n != 0 {
		t.Errorf("after both are unlocked, %d locks", n)
	}
}

// kernelLocks counts the locks of s in the kernel.
func kernelLocks(t *testing.T, s *State) int {
	t.Helper()
	info := must(os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", s.locked.file.Fd())))(t)
	return strings.Count(string(info), "OFDLCK")
}

func TestLockIsCancelled(t *testing.T) {
	s := newState(t)
	paths := lockPaths(t, 2)
	unlock := must(s.Lock(context.Background(), paths[1:], nil))(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := s.Lock(ctx, paths, nil)
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want Canceled", err)
	}
	// The first of the two is free again.
	must(s.Lock(context.Background(), paths[:1], nil))(t)()
	unlock()
	must(s.Lock(context.Background(), paths, nil))(t)()
}

// locker locks name as another process would, until its input ends.
func locker(path, name string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	l := sliceLocks{file: f}
	if err := l.lock(context.Background(), slicesOf([]string{name})[0], nil); err != nil {
		return err
	}
	fmt.Println("locked")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

func TestLockOfAnotherProcess(t *testing.T) {
	s := newState(t)
	paths := lockPaths(t, 1)
	c := play(t, "locker", 0, s.path("locks", lockFile), paths[0].Base())
	in := must(c.StdinPipe())(t)
	out := must(c.StdoutPipe())(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer in.Close()
	line := make([]byte, 16)
	if n, err := out.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "locked") {
		t.Fatalf("%q, %v", line, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, paths, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
	in.Close()
	ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	unlock, err := s.Lock(ctx, paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
