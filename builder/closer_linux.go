package builder

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// closer lets spaces go. The kernel ends a mount namespace with whoever closes the last
// descriptor of it, who waits until all processors have passed a quiescent state: half a
// millisecond on some machines, where builds that end, or are to begin, would wait for it
// as well. So where it takes that long, or may take longer, another thread does it. To wake
// that one costs something, too: elsewhere it is better let be.
type closer struct {
	close func(space)
	takes time.Duration // to close one: an average of those that were closed here
	count int
	bell  int // an eventfd; -1: there is no other thread

	mu   sync.Mutex
	idle sync.Cond // nothing is with the other thread
	left []space   // for it, and
	busy bool      // it is at work, and will look for more
}

const (
	// slowClose is what a piece of work may take for which nobody waits, and others do.
	slowClose = 200 * time.Microsecond
	// heavyBuild is how long a build lasts beside which it costs nothing to wake a thread.
	heavyBuild = 50 * time.Millisecond
	// closeAgain is after how many one is closed here again, to see how long it takes.
	closeAgain = 64
	// closeBehind is the most that may wait for the other thread: more is closed here.
	closeBehind = 16
)

// newCloser starts the other thread, which lives for as long as the process does; not
// where there is one processor only, which everybody waits for.
func newCloser() (*closer, error) {
	c := &closer{close: space.close, bell: -1}
	c.idle.L = &c.mu
	if runtime.NumCPU() == 1 {
		return c, nil
	}
	var err error
	if c.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	started := make(chan struct{})
	go func() {
		// It waits in the kernel, which wakes it without Go's scheduler.
		runtime.LockOSThread()
		beBatch()
		close(started)
		for {
			c.listen()
		}
	}()
	<-started
	return c, nil
}

// listen closes what comes with one stroke of the bell.
func (c *closer) listen() {
	var b [8]byte
	switch _, err := unix.Read(c.bell, b[:]); {
	case errors.Is(err, unix.EINTR):
		return
	case err != nil:
		os.Exit(1) // nothing would ever be closed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.left) > 0 {
		left := c.left
		c.left = nil
		c.mu.Unlock()
		for _, s := range left {
			c.close(s)
		}
		c.mu.Lock()
	}
	c.busy = false
	c.idle.Broadcast()
}

// take lets s go, sooner or later.
func (c *closer) take(s space) {
	c.count++
	slow := s.heavy || c.takes > slowClose && c.count%closeAgain != 0
	if slow && c.bell >= 0 && c.hand(s) {
		return
	}
	began := time.Now()
	c.close(s)
	c.takes += (time.Since(began) - c.takes) / 8
}

// hand gives s to the other thread, and reports whether that has room for it.
func (c *closer) hand(s space) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.left) == closeBehind {
		return false
	}
	c.left = append(c.left, s)
	if !c.busy {
		c.busy = true
		_, _ = unix.Write(c.bell, binary.NativeEndian.AppendUint64(nil, 1)) // it cannot be full
	}
	return true
}

// settle returns when all that was taken is closed, and reports whether it had to wait
// for anything.
func (c *closer) settle() (waited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy {
		waited = true
		c.idle.Wait()
	}
	return waited
}
