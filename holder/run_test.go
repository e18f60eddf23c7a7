package holder

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A server that was of use for a while may die as often as it likes.
func TestDeathsAreForgotten(t *testing.T) {
	h := &holder{files: []*os.File{nil}}
	for range 2 * maxDeaths {
		ours, theirs, err := newPair()
		if err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		h.current = &process{socket: ours, pidfd: pidfd, readyAt: time.Now().Add(-2 * stable)}
		h.restart = nil
		if _, end := h.bury(died{h.current, death{how: "killed"}}); end || h.restart == nil {
			t.Fatalf("it is not started again: it died %d times in a row", h.deaths)
		}
	}
}

// A signal that comes while there is no server is not for the next one.
func TestSignalWithoutServer(t *testing.T) {
	detached := false
	h := &holder{Options: Options{Detach: func([]*os.File) error { detached = true; return nil }}}
	if status, end := h.stop(unix.SIGTERM); status != 1 || !end || !detached {
		t.Errorf("status %d, it ends: %v, detached: %v", status, end, detached)
	}
}
