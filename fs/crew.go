package fs

import (
	"sync"
	"time"
)

// How many requests more are read by everybody, after a reason for it.
const (
	// crowdQuiet: few requests come. Whoever stands by looks in vain; to read
	// costs nothing.
	crowdQuiet = 16
	// crowdBlocked: an answer takes its time, and others may.
	crowdBlocked = 64
	// crowdSlow: the answers took long in the last while, as they do when the
	// backing file system has to read its disk.
	crowdSlow = 1024
	// crowdMany: one cannot answer as fast as callers ask.
	crowdMany = 4096
)

// crewTick is how often the one who stands by looks: so long, or twice, one
// request may delay others without having said that it might.
const crewTick = time.Millisecond

// crewHeld is how long an answer takes that others should not wait for. If many
// do, as when the backing file system reads its disk, answers are given at the
// same time.
const crewHeld = 60 * time.Microsecond

// crewThin is from how many requests in a tick on it is cheaper to look each
// tick than to let two threads read them in turns.
const crewThin = 2

// crew decides who reads requests.
//
// While requests come, one goroutine reads and answers, and nobody else
// reads: then the kernel wakes the same thread each time, which runs where the
// caller ran, and a round trip takes two thirds of the time that it takes when
// two threads read in turns, and half of the processors'. Another one stands by,
// and looks now and then whether the first is held up. Before an answer that
// is known to take long, somebody else begins to read at once.
type crew struct {
	start   func()      // starts a goroutine that reads
	pending func() bool // whether a request waits to be read; nil if one reader is always enough
	most    int         // who may read at a time

	mu       sync.Mutex
	reading  int // who read, or are about to
	standing bool
	crowd    int    // so many requests more are read by everybody
	read     uint64 // requests, so far
	held     uint64 // of which so many held up whoever read them
	over     bool
	// wake tells one who stands by to read, or that it is over. One that was
	// told and one who has taken its place may wait for it at the same time, and
	// either gets it. Capacity 2: neither of the two words is waited for.
	wake chan struct{}
}

func newCrew(most int, start func(), pending func() bool) *crew {
	return &crew{start: start, pending: pending, most: most, crowd: crowdQuiet, wake: make(chan struct{}, 2)}
}

// begin makes the first one read.
func (c *crew) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.another()
}

// another makes somebody read. c.mu is held.
func (c *crew) another() {
	if c.over {
		return
	}
	c.reading++
	if c.standing {
		c.standing = false
		c.wake <- struct{}{}
		return
	}
	c.start()
}

// took says that somebody who read has a request, and reads no more. If nobody
// waits for the answer, the kernel need not get rid of more of the kind at once.
func (c *crew) took(awaited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading--
	c.read++
	crowd := c.crowd > 0
	if crowd {
		c.crowd--
	}
	// Somebody has to stand by, at least.
	if c.reading == 0 && awaited && (crowd || !c.standing) {
		c.another()
	}
}

// relieve says that an answer may take long.
func (c *crew) relieve() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crowd = max(c.crowd, crowdBlocked)
	if c.reading == 0 {
		c.another()
	}
}

// back is for whoever has answered, after so long. It reports whether to read
// again, which may be later, or to end.
func (c *crew) back(took time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if took >= crewHeld {
		c.held++
	}
	switch {
	case c.over, c.reading >= c.most:
		return false
	case c.reading == 0, c.crowd > 0:
		c.reading++
		return true
	case c.standing:
		return false
	}
	c.standing = true
	timer := time.NewTimer(crewTick)
	defer timer.Stop()
	for {
		read, held := c.read, c.held
		c.mu.Unlock()
		select {
		case <-c.wake:
			c.mu.Lock()
			return !c.over // and counted already
		case <-timer.C:
		}
		c.mu.Lock()
		// If nobody stands by, there is a word in wake.
		if c.standing && c.look(c.read-read, c.held-held) {
			c.standing = false
			c.reading++
			return true
		}
		timer.Reset(crewTick)
	}
}

// look reports whether the one who stands by is needed, or not needed to stand
// by, after a tick in which so many requests were read, and so many answers took
// their time. c.mu is held.
func (c *crew) look(read, held uint64) bool {
	switch {
	case c.reading > 0:
		if read >= crewThin {
			return false
		}
		c.crowd = crowdQuiet
	case read == 0, held > read/2:
		c.crowd = crowdSlow
	default:
		if c.pending == nil || !c.pending() {
			return false
		}
		c.crowd = crowdMany
	}
	return true
}

// end lets go whoever stands by: there is nothing more to read.
func (c *crew) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	if c.standing {
		c.standing = false
		c.wake <- struct{}{}
	}
}
