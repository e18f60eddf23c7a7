package timeline

import (
	"testing"
	"time"
)

// However the wall clock is set, what happened lies as far apart as it did.
func TestClock(t *testing.T) {
	c := NewClock()
	wall := c.begin.Round(0)
	for _, step := range []struct {
		passed, set, heard time.Duration // since the begin; by how much the clock was set by then; after that
	}{
		{0, 0, 20 * time.Millisecond},
		{time.Second, 0, 20 * time.Millisecond},
		{2 * time.Second, -time.Hour, 20 * time.Millisecond},
		{time.Minute, -time.Hour, 90 * time.Millisecond},
		{2 * time.Minute, 24 * time.Hour, 0},
		{3 * time.Minute, 24*time.Hour + 30*time.Millisecond, 0}, // it is adjusted
	} {
		at := wall.Add(step.passed + step.set)
		got := c.at(at, at.Add(step.heard), step.passed+step.heard)
		if d := got.Sub(wall.Add(step.passed)); d.Abs() > 50*time.Millisecond {
			t.Errorf("%+v: %v off", step, d)
		}
	}
	// One that happened before it was set, and is heard of afterwards.
	at := wall.Add(4*time.Minute + 24*time.Hour)
	got := c.at(at, wall.Add(4*time.Minute+10*time.Millisecond), 4*time.Minute+10*time.Millisecond)
	if d := got.Sub(wall.Add(4 * time.Minute)); d.Abs() > 50*time.Millisecond {
		t.Errorf("%v off", d)
	}
	// In this process it is read as well as the wall clock.
	if got, want := c.At(c.begin.Add(time.Minute)), wall.Add(time.Minute); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// What is told of since then counts by the clock that never jumps.
func TestClockSince(t *testing.T) {
	c := NewClock()
	got := c.Since(c.begin.Round(0).Add(-time.Hour))
	if got == got.Round(0) {
		t.Errorf("%v has no reading of the clock that never jumps", got)
	}
	if d := c.begin.Sub(got); (d - time.Hour).Abs() > time.Minute {
		t.Errorf("an hour ago is %v ago", d)
	}
}
