package timeline

import "time"

// Clock takes times to one that never jumps. Those of another process are of the wall
// clock, and somebody may set that in the middle of a run: then a goal would have taken
// hours, or ended before it began.
type Clock struct {
	begin time.Time
	jump  time.Duration // by how much the wall clock has been set since begin
	last  time.Duration // the same before it was set the last time
}

// noticed is by how much the wall clock must be off: what it is less, it may have been
// adjusted slowly, or read a moment later.
const noticed = 100 * time.Millisecond

// NewClock begins now.
func NewClock() *Clock { return &Clock{begin: time.Now()} }

// Now is the time now.
func (c *Clock) Now() time.Time { return c.At(time.Now()) }

// At is the time at of an event that is heard of now.
func (c *Clock) At(at time.Time) time.Time {
	now := time.Now()
	return c.at(at, now.Round(0), now.Sub(c.begin))
}

// Since is At with a reading of the clock that never jumps: times since then, as others of
// this process tell them, are right although the wall clock is set.
func (c *Clock) Since(at time.Time) time.Time { return c.begin.Add(c.At(at).Sub(c.begin.Round(0))) }

// at is told what the wall clock says now, and how long ago it really began.
func (c *Clock) at(at, wall time.Time, passed time.Duration) time.Time {
	begin := c.begin.Round(0)
	if at.Round(0) != at { // it has a reading of the clock that never jumps
		return begin.Add(at.Sub(c.begin))
	}
	jump := wall.Sub(begin) - passed
	if (jump - c.jump).Abs() > noticed {
		c.last, c.jump = c.jump, jump
	}
	// What happened a moment before the clock was set is heard of after that.
	now := begin.Add(passed)
	before, after := at.Add(-c.last), at.Add(-c.jump)
	if now.Sub(before).Abs() < now.Sub(after).Abs() {
		return before
	}
	return after
}
