package fs

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// crewLab is a crew with a queue of requests; each is how long its answer takes.
type crewLab struct {
	*crew
	queue   chan time.Duration
	working atomic.Int32 // how many answer
	most    atomic.Int32 // of working
	started atomic.Int32
}

func newCrewLab(most int, pending bool) *crewLab {
	l := &crewLab{queue: make(chan time.Duration, 10_000)}
	var waits func() bool
	if pending {
		waits = func() bool { return len(l.queue) > 0 }
	}
	l.crew = newCrew(most, func() { go l.loop() }, waits)
	return l
}

func (l *crewLab) loop() {
	l.started.Add(1)
	for takes := range l.queue {
		l.took(true)
		now, begin := l.working.Add(1), time.Now()
		for most := l.most.Load(); now > most && !l.most.CompareAndSwap(most, now); most = l.most.Load() {
		}
		time.Sleep(takes)
		l.working.Add(-1)
		if !l.back(time.Since(begin)) {
			return
		}
	}
	l.end()
}

// ask waits until n requests that take so long each are answered, one after the
// other.
func (l *crewLab) ask(n int, takes time.Duration) {
	for range n {
		l.queue <- takes
		time.Sleep(takes + time.Microsecond)
	}
}

// state is how many read, and whether one stands by.
func (l *crewLab) state() (reading int, standing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reading, l.standing
}

func TestCrew(t *testing.T) {
	const quick = 10 * time.Microsecond
	lab := func(name string, most int, pending bool, f func(t *testing.T, l *crewLab)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newCrewLab(most, pending)
				l.begin()
				f(t, l)
				close(l.queue)
				synctest.Wait()
				time.Sleep(2 * crewTick)
				if _, standing := l.state(); standing {
					t.Error("somebody still stands by after the end")
				}
			})
		})
	}
	lab("one reads while requests come thick", 2, false, func(t *testing.T, l *crewLab) {
		l.ask(1000, quick)
		if reading, standing := l.state(); reading != 1 || !standing {
			t.Errorf("%d read, standing by: %v", reading, standing)
		}
		// They come thin, then, and everybody reads; nobody looks at a clock.
		time.Sleep(2 * crewTick)
		if reading, standing := l.state(); reading != 2 || standing {
			t.Errorf("later %d read, standing by: %v", reading, standing)
		}
		if l.started.Load() > 2 {
			t.Errorf("%d goroutines for one request at a time", l.started.Load())
		}
	})
	lab("one reads while requests come thin", 2, false, func(t *testing.T, l *crewLab) {
		l.ask(1000, quick)
		for range 500 {
			l.ask(1, 4*quick)
			time.Sleep(7 * quick) // most ticks end while one is answered, or soon after
			if reading, standing := l.state(); reading > 1 || !standing {
				t.Fatalf("%d read, standing by: %v", reading, standing)
			}
		}
	})
	lab("whoever is stuck is relieved", 2, false, func(t *testing.T, l *crewLab) {
		l.ask(1000, quick)
		start := time.Now()
		l.queue <- time.Minute
		l.ask(1, quick)
		for len(l.queue) > 0 || l.working.Load() > 1 {
			time.Sleep(quick)
		}
		if took := time.Since(start); took > 2*crewTick+time.Millisecond {
			t.Errorf("others waited %v", took)
		}
		time.Sleep(time.Minute)
	})
	lab("whoever says so is relieved at once", 2, false, func(t *testing.T, l *crewLab) {
		l.ask(1000, quick)
		l.relieve()
		if reading, standing := l.state(); reading != 1 || !standing {
			t.Errorf("%d read, standing by: %v: one who reads is enough", reading, standing)
		}
		l.queue <- time.Minute
		synctest.Wait()
		if reading, _ := l.state(); reading != 1 {
			t.Errorf("%d read beside one who is busy for long", reading)
		}
		time.Sleep(time.Minute)
	})
	lab("any number may take long", 2, false, func(t *testing.T, l *crewLab) {
		for range 100 {
			l.queue <- time.Hour
			synctest.Wait()
			l.relieve()
		}
		synctest.Wait()
		if l.working.Load() != 100 {
			t.Errorf("%d of 100 are answered", l.working.Load())
		}
		l.ask(10, quick)
		if l.working.Load() != 100 {
			t.Errorf("others wait for them")
		}
		time.Sleep(2 * time.Hour)
		if reading, _ := l.state(); reading > l.crew.most {
			t.Errorf("%d read", reading)
		}
	})
	lab("as many read as are needed", 4, true, func(t *testing.T, l *crewLab) {
		l.ask(1000, quick)
		for range 2000 {
			l.queue <- quick
		}
		time.Sleep(2000 * quick)
		if len(l.queue) > 0 || l.most.Load() < 2 {
			t.Errorf("%d left, %d at a time", len(l.queue), l.most.Load())
		}
	})
	lab("slow answers are given at the same time", 2, false, func(t *testing.T, l *crewLab) {
		l.ask(1000, quick)
		const n, takes = 200, 300 * time.Microsecond
		start := time.Now()
		for range n {
			l.queue <- takes
		}
		for len(l.queue) > 0 || l.working.Load() > 0 {
			time.Sleep(takes)
		}
		if took := time.Since(start); took > n*takes/2+4*crewTick {
			t.Errorf("%v, by one alone %v", took, n*takes)
		}
	})
}

// An interrupt that comes before anybody waits is not lost, and none reaches
// another request.
func TestInterrupt(t *testing.T) {
	a := &answerer{raw: &raw{}, inflight: inflight{all: make(map[*request]struct{})}}
	f := &a.inflight
	q := f.add()
	set := func(unique uint64) {
		text := make([]byte, requestHeader)
		text[8] = byte(unique)
		q.set(text)
	}
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	set(1)
	if !f.interrupt(1) || f.interrupt(2) {
		t.Error("the wrong requests are known")
	}
	if !closed(q.cancelled()) {
		t.Error("an early interrupt is lost")
	}
	q.done()
	if f.interrupt(1) {
		t.Error("an answered request is known")
	}
	set(2)
	c := q.cancelled()
	if f.interrupt(1) || closed(c) {
		t.Error("interrupted for another request")
	}
	if !f.interrupt(2) || !closed(c) {
		t.Error("an interrupt is lost")
	}
	// One of what is not here is for the kernel to repeat.
	for unique, want := range map[uint64]unix.Errno{2: 0, 3: unix.EAGAIN} {
		in := fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: codeInterrupt}, Unique: unique}
		i := new(request)
		i.set(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)))
		got := unix.Errno(0)
		if answer := a.answer(i); answer != nil {
			got = unix.Errno(-(*fuse.OutHeader)(unsafe.Pointer(&answer[0])).Status)
		}
		if got != want {
			t.Errorf("interrupt of request %d: %v, want %v", unique, got, want)
		}
	}
}
