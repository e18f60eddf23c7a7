// Package sysmon bounds how often the thread wakes by which Go's runtime watches over
// the others of a process, sysmon. Whenever a process that had nothing to do has
// something, that thread looks each fiftieth of a millisecond, fifty times at least: a
// single request costs a server three times as much as its answer. How much later than it
// wants the kernel may wake a thread is that thread's timer slack; see prctl(2),
// PR_SET_TIMERSLACK, and proc_pid_timerslack_ns(5), which needs CAP_SYS_NICE.
package sysmon

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LookAgain is after how many pieces of work, which may have had the runtime start
// threads, a process should be looked at again.
const LookAgain = 128

// found is what the first thread has: who initialises a program is it.
var found, errFound = unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)

// Slack is the timer slack that this process was started with, in nanoseconds.
func Slack() (int, error) {
	if errFound != nil {
		return 0, fmt.Errorf("read the timer slack: %w", errFound)
	}
	return found, nil
}

// SetSlack sets that of the calling thread, in nanoseconds.
func SetSlack(ns int) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0); err != nil {
		return fmt.Errorf("set the timer slack: %w", err)
	}
	return nil
}

// Watch is that thread of one process.
type Watch struct {
	others string // the slack of others, in nanoseconds

	mu    sync.Mutex
	tasks *os.File // /proc/PID/task, which is empty once the process is dead; nil: not to be had
}

// kept are the threads that may wake late: the first one, and the second, which is the
// one that watches.
const kept = 2

// Of returns that of a process, whose other threads are to have a slack of others
// nanoseconds. The caller must Close it.
func Of(pid, others int) *Watch {
	tasks, _ := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	return &Watch{others: strconv.Itoa(others), tasks: tasks}
}

// Slacken lets the thread wake later by as much as slack. What cannot be changed stays
// as it is.
func (w *Watch) Slacken(slack time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if threads := w.threads(); len(threads) >= kept {
		set(threads[kept-1], strconv.FormatInt(slack.Nanoseconds(), 10))
	}
}

// Except gives all threads but those that may wake late the slack of others. They sleep
// for microseconds, too, where they look for work or stop the world. The one that watches
// may start others at any time, which have its slack. What cannot be changed stays as it
// is.
func (w *Watch) Except() {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	// Whoever has it meanwhile may make another that has it.
	for known := kept; ; {
		threads := w.threads()
		if len(threads) <= known {
			return
		}
		for _, tid := range threads[kept:] {
			set(tid, w.others)
		}
		known = len(threads)
	}
}

// threads are those of the process, in the order in which they were made. The caller
// has mu.
func (w *Watch) threads() []string {
	if _, err := w.tasks.Seek(0, io.SeekStart); err != nil {
		return nil
	}
	threads, _ := w.tasks.Readdirnames(-1)
	return threads
}

func set(tid, slack string) {
	if f, err := os.OpenFile("/proc/"+tid+"/timerslack_ns", os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString(slack)
		f.Close()
	}
}

// Close is called when the process is dead, or not watched any more.
func (w *Watch) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks.Close()
}
