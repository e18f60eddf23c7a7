package builder

import (
	"os"
	"strconv"
	"time"
)

// idleSlack is how much later than it wanted the kernel may wake the thread of a
// spawner that Go has to watch over the others: that would wake each tenth of a
// millisecond, in the place of a builder, while builds begin and end. See prctl(2),
// PR_SET_TIMERSLACK.
//
// No other thread may have it: they sleep for microseconds, too, when they look for
// work or stop the world, and others wait for them.
const idleSlack = 10 * time.Millisecond

// slowWatch gives that thread of a process idleSlack, which must have begun: it is the
// first that the runtime makes. The one before it, which waits for the end, has it, too.
// What cannot be changed stays as it is.
func slowWatch(pid int) {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return
	}
	defer dir.Close()
	threads, _ := dir.Readdirnames(2) // in the order in which they were made
	for _, tid := range threads {
		if f, err := os.OpenFile("/proc/"+tid+"/timerslack_ns", os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteString(strconv.FormatInt(idleSlack.Nanoseconds(), 10))
			f.Close()
		}
	}
}
