package main

import (
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"storefs/sysmon"
)

// vigil keeps Go's runtime from watching too closely while many short builds run. The
// runtime has a thread, sysmon, that looks for goroutines which keep others waiting: each
// twentieth of a millisecond when the process has just had nothing at all to do, or when
// it has found one, and less and less often while neither happens. An owner whose builds
// take a millisecond has nothing to do a thousand times in a second. So that thread is
// woken four times for each of its builds, in the place of a builder, which takes a
// twelfth of all processor time on two processors.
//
// So while many builds end, one goroutine is in a system call, which counts as something
// to do. It begins before the first builds do: a runtime that looks closely finds that
// goroutine, again and again, and goes on to. Once many have ended it has a place of its
// own: the runtime, which seldom looks then, would take it from that as late as from one
// that waits for the disk, or that writes bbolt's file, and all others would wait for
// 5 ms while that is in the other place.
type vigil struct {
	mu   sync.Mutex
	ends [vigilBuilds]time.Time // of the last builds, the oldest at next
	next int
	kept bool
	more bool // it has a place of its own
	n    int  // builds that have ended

	// watch is the thread that watches; nil: it is to wake as it likes.
	watch *sysmon.Watch
	till  time.Time // it is kept until then, however few end
}

const (
	// vigilBuilds is how many builds must have ended within vigilTime: more than those
	// for which somebody waits one by one.
	vigilBuilds = 32
	vigilTime   = 50 * time.Millisecond
	// vigilBegin is how long it is kept before many have ended.
	vigilBegin = 500 * time.Millisecond
	// vigilNap is how long its system call takes. From 10 ms on, the runtime would find
	// it however seldom it looks.
	vigilNap = 5 * time.Millisecond
)

// drowsiness is how much later than it wanted the runtime's thread wakes in a server. That
// many times it looks, and not each fiftieth of a millisecond, when a single request or
// build has come: half of what the server does for it otherwise. Nobody waits for that
// thread for longer, while goroutines in system calls have all places.
const drowsiness = time.Millisecond

// drowse lets the thread that watches wake late from now on, where the kernel allows it.
func (v *vigil) drowse() {
	slack, err := sysmon.Slack()
	if err != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.watch = sysmon.Of(os.Getpid(), slack)
	v.watch.Slacken(drowsiness)
}

// begin says that builds will begin, and perhaps end fast.
func (v *vigil) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.till = time.Now().Add(vigilBegin)
	v.start()
}

// start begins to keep it. The caller has mu.
func (v *vigil) start() {
	// Who has only one place for goroutines needs it.
	if !v.kept && runtime.GOMAXPROCS(0) > 1 {
		v.kept = true
		go v.keep()
	}
}

// built says that a build has ended.
func (v *vigil) built() {
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ends[v.next] = now
	v.next = (v.next + 1) % vigilBuilds
	v.n++
	if v.watch != nil && v.n%sysmon.LookAgain == 0 {
		go v.watch.Except()
	}
	if v.isDue(now) {
		v.start()
	}
	if v.kept && !v.more && v.areMany(now) { // to make room stops the world
		v.more = true
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

// isDue reports whether many builds end. The caller has mu.
func (v *vigil) isDue(now time.Time) bool {
	return v.areMany(now) || now.Before(v.till)
}

// areMany reports whether many builds have ended just now. The caller has mu.
func (v *vigil) areMany(now time.Time) bool { return now.Sub(v.ends[v.next]) < vigilTime }

// keep does so until no more builds end than one now and then.
func (v *vigil) keep() {
	for kept := true; kept; {
		nap := unix.NsecToTimespec(vigilNap.Nanoseconds())
		_ = unix.Nanosleep(&nap, nil) // time.Sleep would leave nothing to do
		runtime.Gosched()             // others first
		v.mu.Lock()
		v.kept = v.isDue(time.Now())
		kept = v.kept
		if !kept && v.more {
			v.more = false
			runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) - 1)
		}
		v.mu.Unlock()
	}
}
