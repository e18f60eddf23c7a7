package builder

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// idleSlack is how much later than it wanted the kernel may wake a thread of a spawner
// that waits for a time, while that begins: and later that of the thread which Go has to
// watch over the others. It would wake each tenth of a millisecond, in the place of a
// builder, while builds begin and end. See prctl(2), PR_SET_TIMERSLACK.
const idleSlack = 10 * time.Millisecond

// slackOf is the timer slack of this thread, in nanoseconds.
func slackOf() (int, error) {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("read the timer slack: %w", err)
	}
	return ns, nil
}

func setSlack(ns int) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0); err != nil {
		return fmt.Errorf("set the timer slack: %w", err)
	}
	return nil
}

// slackenInterval is after how many builds the threads of a spawner are looked at again.
const slackenInterval = 128

// watch leaves idleSlack to no threads of a spawner but the first, which waits for
// the end, and the second, which is the one that watches. The others sleep for
// microseconds, too, where they look for work or stop the world, and with that slack all
// builds waited 10 ms for them. What cannot be changed stays as it is.
type watch struct {
	slack int

	mu    sync.Mutex
	tasks *os.File // /proc/PID/task, which is empty once the process is dead; nil: not to be had
}

func newWatch(pid, slack int) *watch {
	tasks, _ := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	return &watch{slack: slack, tasks: tasks}
}

// slacken looks at all threads. The one that watches may start others at any time,
// which have its slack.
func (w *watch) slacken() {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	const kept = 2
	text := []byte(strconv.Itoa(w.slack))
	// Whoever has it meanwhile may make another that has it.
	for known := kept; ; {
		if _, err := w.tasks.Seek(0, io.SeekStart); err != nil {
			return
		}
		threads, _ := w.tasks.Readdirnames(-1) // in the order in which they were made
		if len(threads) <= known {
			return
		}
		for _, tid := range threads[kept:] {
			if f, err := os.OpenFile("/proc/"+tid+"/timerslack_ns", os.O_WRONLY, 0); err == nil {
				_, _ = f.Write(text)
				f.Close()
			}
		}
		known = len(threads)
	}
}

// end is called when the process is dead.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks.Close()
}
