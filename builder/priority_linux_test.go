package builder_test

import (
	"os"
	"strings"
	"sync"
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
)

// What nobody waits for has the lowest priority, until somebody does.
func TestPriority(t *testing.T) {
	// Field 41 of stat is the policy: 0 is the usual one, 5 SCHED_IDLE. What is
	// below another shell, which was there before, counts.
	const script = `
nested() {
	set -- $(cat /proc/self/stat)
	echo ${41}
}
mkfifo ask tell
while read x <ask; do nested >tell; done &
for i in $(seq 500); do
	set -- $(cat /proc/self/stat)
	policy=${41}
	echo >ask; read below <tell
	group=$(cat /proc/self/autogroup 2>/dev/null || echo none nice 0)
	echo process $policy below $below session ${group##* }
	test "$policy $below ${group##* }" = "0 0 0" && break
	sleep 0.02
done
kill $!
echo > $out`
	w := buildertest.NewWorld(t, local)
	for _, background := range []bool{false, true} {
		var mu sync.Mutex
		var lines []string
		wanted := make(chan struct{})
		job := w.Job("priority", script, func(j *builder.Job) {
			if background {
				j.Wanted = wanted
			}
			j.Log = func(line []byte) {
				mu.Lock()
				defer mu.Unlock()
				if lines = append(lines, string(line)); len(lines) == 3 {
					close(wanted)
				}
			}
		})
		w.Built(job)
		mu.Lock()
		first, last := lines[0], lines[len(lines)-1]
		mu.Unlock()
		if last != "process 0 below 0 session 0" {
			t.Errorf("background %v: in the end: %q", background, last)
		}
		switch {
		case !background && len(lines) > 1:
			t.Errorf("one that is waited for began with %q", first)
		case background && os.Geteuid() == 0 && !strings.HasPrefix(first, "process 5 below 5 "):
			t.Errorf("one that nobody waits for began with %q", first)
		case background && !strings.HasSuffix(first, " session 19") && sessions():
			t.Errorf("one that nobody waits for began with %q", first)
		}
	}
}

// sessions reports whether this kernel schedules sessions against each other.
func sessions() bool {
	_, err := os.Stat("/proc/self/autogroup")
	return err == nil
}
