package builder

import (
	"fmt"
	"os"
	"strconv"
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

// slackenWatch leaves idleSlack to no threads of a spawner but the first, which waits for
// the end, and the second, which is the one that watches. The others sleep for
// microseconds, too, where they look for work or stop the world, and with that slack all
// builds waited 10 ms for them. What cannot be changed stays as it is.
func slackenWatch(pid, slack int) {
	const kept = 2
	text := []byte(strconv.Itoa(slack))
	// Whoever has it meanwhile may make another that has it.
	for known := kept; ; {
		dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
		if err != nil {
			return
		}
		threads, _ := dir.Readdirnames(-1) // in the order in which they were made
		dir.Close()
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
