package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"storefs/daemon"
	"storefs/fs"
	"storefs/store"
)

func TestDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		d := newDenials("/s", func(line string) { said = append(said, line) })
		name := func(i int) string { return fmt.Sprintf("%032d-x", i) }
		deny := func(i int, command string, pid uint32) {
			d.add(fs.Denial{Call: fs.Call{Name: name(i), PID: pid, UID: 7, Command: command}, Rule: "command:" + command + "=deny"})
		}
		of := func(i int) int { return len(d.of(store.Path("/s/" + name(i)))) }

		deny(0, "cat", 1)
		deny(0, "cat", 1) // again, which is no news
		deny(0, "cat", 2)
		deny(0, "ls", 3)
		deny(1, "cat", 1)
		if of(0) != 3 || of(1) != 1 || of(2) != 0 {
			t.Errorf("%v", d.last)
		}
		if len(said) != 2 || said[0] != "storefs: /s/"+name(0)+": cat (pid 1, uid 7) was denied by command:cat=deny" || !strings.Contains(said[1], ": ls (pid 3") {
			t.Errorf("said %q", said)
		}
		if s := (daemon.Denial{Command: "a\nb", UID: 7, Policy: "all=deny"}).String(); strings.Contains(s, "\n") {
			t.Errorf("%q", s)
		}
		time.Sleep(denialPause)
		deny(1, "cat", 1)
		if len(said) != 3 {
			t.Errorf("said %q", said)
		}
		// Who calls itself something else each time fills neither memory nor log.
		for i := range 3 * maxDenials {
			deny(2+i, fmt.Sprint("x", i), 1)
		}
		if len(d.last) != maxDenials || len(d.said) != maxDenials || len(said) != 2+maxDenials || of(1) != 0 {
			t.Errorf("%d remembered, %d commands, said %d", len(d.last), len(d.said), len(said))
		}
	})
}
