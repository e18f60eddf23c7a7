package builder

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// lowest is the lowest priority of ordinary processes: beside one of the usual
// priority it gets a seventieth of the time.
const lowest = 19

// stepBack gives everything that runs in the sandbox the lowest priority, or
// the usual one again. What cannot be changed stays as it is.
//
// It takes two means. Where sessions are scheduled against each other (the
// kernel's autogroup), the priority of processes counts within their session
// only, and the child is the leader of one. Elsewhere it is that of processes
// which counts: but only the superuser may raise it again, and so others do not
// lower it. Neither reaches a process that made a session of its own.
func (c *child) stepBack(back bool) {
	if c.pid == 0 {
		return
	}
	pid, nice := c.pid, 0
	if back {
		nice = lowest
	}
	if f, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/autogroup", os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString(strconv.Itoa(nice))
		f.Close()
	}
	if os.Geteuid() == 0 {
		_ = unix.Setpriority(unix.PRIO_PGRP, pid, nice)
	}
}
