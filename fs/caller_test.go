package fs

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A caller that was woken is asked again; one that stays awake tells nothing, and
// whoever may have to wait for that is relieved, once.
func TestCallOfOneThatIsAwake(t *testing.T) {
	const call = "257 0xffffff9c"
	for looks, want := range []string{call, call, call, call} {
		seen, relieved := 0, 0
		got := asleep(func() { relieved++ }, func() string {
			if seen++; seen <= looks {
				return "running"
			}
			return call
		})
		if got != want || seen != looks+1 || relieved != min(looks, 1) {
			t.Errorf("awake %d times: %q after %d looks, relieved %d times", looks, got, seen, relieved)
		}
	}
	if got := asleep(func() {}, func() string { return "" }); got != "" {
		t.Errorf("of one that is gone: %q", got)
	}

	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for end := time.Now().Add(time.Minute); busy(t, cmd.Process.Pid) < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not run")
		}
	}
	c, relieved := caller{pid: uint32(cmd.Process.Pid)}, 0
	if got := c.call(func() { relieved++ }); got != "" || relieved != 1 {
		t.Errorf("of one that is awake: %q, relieved %d times", got, relieved)
	}
	if c.dying(call) {
		t.Error("who is awake is let go")
	}
	if !(caller{}).dying(call) {
		t.Error("one of whom nothing can be known is not let go")
	}
}

// busy is the time that a process has spent outside of the kernel, in ticks.
func busy(t *testing.T, pid int) (ticks int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fmt.Sscan(strings.Fields(rest)[11], &ticks)
	return ticks
}
