package builder

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lowest is the lowest priority of ordinary processes.
const lowest = 19

// beBatch schedules this thread, and all that it starts, as builds are: by SCHED_BATCH,
// unless whoever has started this process chose a policy. A thread that wakes up by
// SCHED_BATCH has the usual share of the processors, but does not take one from another
// that is at work: so builds disturb nobody, and those that take a millisecond are not
// torn by what begins and ends others. See sched(7). Where the policy cannot be changed,
// it stays as it is.
func beBatch() { batchThread(0) }

func batchThread(tid int) {
	if a, err := unix.SchedGetAttr(tid, 0); err == nil && a.Policy == unix.SCHED_NORMAL {
		a.Policy = unix.SCHED_BATCH
		_ = unix.SchedSetAttr(tid, a, 0)
	}
}

// Batch schedules all threads of this process as builds are: it is for one that does
// nothing but build. Who answers others should not.
func Batch() {
	// Whoever has the old policy meanwhile may make another thread that has it.
	for known, rounds := 0, 0; rounds < 10; rounds++ {
		dir, err := os.Open("/proc/self/task")
		if err != nil {
			return
		}
		threads, _ := dir.Readdirnames(-1)
		dir.Close()
		if len(threads) == known {
			return
		}
		known = len(threads)
		for _, t := range threads {
			if tid, err := strconv.Atoi(t); err == nil {
				batchThread(tid)
			}
		}
	}
}

// stepBackAgain is how long to wait before what the kernel was too busy for is tried again:
// others than the superuser change the priority of a session ten times a second, all of
// them together.
const stepBackAgain = 100 * time.Millisecond

// stepBack gives everything that runs in the sandbox the processors that nobody
// else wants, or the usual share again. What cannot be changed stays as it is; false says
// that it can be later.
//
// It takes two means. Where sessions are scheduled against each other (the
// kernel's autogroup), the priority of processes counts within their session
// only, and the child is the leader of one. Elsewhere it is that of threads
// which counts: but only the superuser may raise it again, and so others do not
// lower it. Where sessions count, what made one of its own keeps its share.
//
// What runs by SCHED_IDLE leaves a processor as soon as anybody else wants it,
// and the kernel counts one that runs nothing else as free: beside a process that
// only has a low priority, whoever wakes up is sent to where others are, and waits
// for them. Its disk accesses come last, too.
func (c *child) stepBack(back bool) bool {
	if c.pid == 0 {
		return true
	}
	nice, policy := 0, uint32(unix.SCHED_BATCH)
	if back {
		nice, policy = lowest, unix.SCHED_IDLE
	}
	if back && !c.idle {
		// Whoever has started this process may have chosen that for everything.
		a, err := unix.SchedGetAttr(c.pid, 0)
		c.idle = err == nil && a.Policy != unix.SCHED_IDLE && os.Geteuid() == 0 && mayRaise()
	}
	if c.idle {
		// Again, for what was begun meanwhile by others that had the old one.
		for changed, rounds := true, 0; changed && rounds < 10; rounds++ {
			changed = schedule(c.pid, policy)
		}
	}
	if nice == c.nice {
		return true
	}
	err := os.WriteFile("/proc/"+strconv.Itoa(c.pid)+"/autogroup", []byte(strconv.Itoa(nice)), 0)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	c.nice = nice
	return true
}

// mayRaise reports whether this process has the right to raise the priority of others:
// the superuser of a container often does not. What asks for it, and for nothing else,
// is to take back that a thread's children have the usual policy.
func mayRaise() bool {
	answer := make(chan bool)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		a, err := unix.SchedGetAttr(0, 0)
		if err == nil {
			a.Flags |= unix.SCHED_FLAG_RESET_ON_FORK
			err = unix.SchedSetAttr(0, a, 0)
		}
		if err == nil {
			a.Flags &^= unix.SCHED_FLAG_RESET_ON_FORK
			err = unix.SchedSetAttr(0, a, 0)
		}
		answer <- err == nil
	}()
	return <-answer
}

// schedule makes the kernel schedule all threads of a process, and of all below
// it, by that policy, and reports whether it changed any. In a pid namespace, all
// are below the first one.
func schedule(pid int, policy uint32) (changed bool) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return false // it is gone
	}
	for _, t := range threads {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if a, err := unix.SchedGetAttr(tid, 0); err == nil && a.Policy != policy {
			a.Policy = policy
			changed = unix.SchedSetAttr(tid, a, 0) == nil || changed
		}
		children, _ := os.ReadFile(dir + "/" + t.Name() + "/children")
		for child := range strings.FieldsSeq(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil {
				changed = schedule(pid, policy) || changed
			}
		}
	}
	return changed
}
