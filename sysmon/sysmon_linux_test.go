package sysmon

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The second thread of a process wakes late, and others do not, also those that the
// second one has started.
func TestWatch(t *testing.T) {
	slack, err := Slack()
	if err != nil {
		t.Fatal(err)
	}
	w := Of(os.Getpid(), slack)
	defer w.Close()
	// A thread that is neither of the two, and stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	release := make(chan struct{})
	defer close(release)
	other := make(chan string)
	for range kept { // one of them may have the first thread
		go func() {
			runtime.LockOSThread()
			other <- strconv.Itoa(unix.Gettid())
			<-release
		}()
	}
	tids := []string{<-other, <-other}
	tid := tids[0]
	if tid == strconv.Itoa(os.Getpid()) {
		tid = tids[1]
	}
	w.mu.Lock()
	second := w.threads()[1]
	w.mu.Unlock()
	if second == tid {
		t.Fatalf("%s runs goroutines, and is taken for the thread that watches", tid)
	}

	const late = 7 * time.Millisecond
	w.Slacken(late)
	if err := os.WriteFile("/proc/"+tid+"/timerslack_ns", []byte("3000000"), 0); err != nil {
		if !errors.Is(err, os.ErrPermission) {
			t.Fatal(err)
		}
		t.Skip("needs CAP_SYS_NICE, which root in a container need not have") // nothing has come of it
	}
	if got := slackNow(t, second); got != int(late) {
		t.Errorf("the slack of the thread that watches is %d, want %d", got, late)
	}
	w.Except()
	if got := slackNow(t, tid); got != slack {
		t.Errorf("the slack of another thread is %d, want %d", got, slack)
	}
	if got := slackNow(t, second); got != int(late) {
		t.Errorf("then that of the thread that watches is %d, want %d", got, late)
	}
}

// What is dead is left alone.
func TestDead(t *testing.T) {
	for range 2 {
		w := Of(1<<30, 50000)
		w.Slacken(time.Millisecond)
		w.Except()
		w.Close()
	}
}

func slackNow(t *testing.T, tid string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + tid + "/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
