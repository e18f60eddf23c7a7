// Package pressure watches what the machine is short of, and says when nothing
// more should be started beside what runs. It starts and stops nothing itself,
// and measures no single process.
package pressure

import (
	"context"
	"fmt"
	"os"
	"time"
)

const (
	// window is the time over which the kernel looks at memory; unprivileged
	// processes may only ask for multiples of two seconds.
	window = 2 * time.Second
	// stall is how much of a window some task may wait for memory.
	stall = 200 * time.Millisecond
	// quiet is how long after the last news of a shortage it counts as over. The
	// kernel tells of one that lasts once in each window.
	quiet = window + window/2
	// sample is how often the load is read: the kernel does not tell of it.
	sample = 250 * time.Millisecond
	// settle is when memory begins to be watched: to begin costs something, and what is
	// over sooner has no use of it.
	settle = time.Second
)

// Gauge watches one machine. Run it once.
type Gauge struct {
	load    float64
	memory  func() (trigger, error)
	running func() (int, error)
}

// trigger is something that the kernel tells of.
type trigger interface {
	// wait returns nil each time that the kernel tells, or an error when ctx
	// ends or there is nothing to wait for any more.
	wait(ctx context.Context) error
	Close() error
}

// Options of New.
type Options struct {
	// Load is how many tasks of the whole machine may want a processor. 0: any
	// number.
	Load float64
}

// New makes a gauge. Memory is not watched where the kernel does not tell of it
// (PSI).
func New(o Options) *Gauge {
	return &Gauge{load: o.Load, memory: memoryTrigger, running: runnable}
}

// Run calls hold with a reason when nothing more should be started, and with ""
// when that is over, until ctx ends. Each call says something new.
func (g *Gauge) Run(ctx context.Context, hold func(reason string)) {
	var told string
	short := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Nobody waits for its end: to close the kernel's trigger takes 8 to 14 ms, for an RCU
	// grace period.
	go g.watchMemory(ctx, short)

	over := time.NewTimer(0)
	<-over.C
	var memory, load string
	var ticks <-chan time.Time
	if g.load > 0 {
		t := time.NewTicker(sample)
		defer t.Stop()
		ticks = t.C
		load = g.overloaded() // what comes first would be started before the first tick
	}
	for {
		reason := memory
		if reason == "" {
			reason = load
		}
		if reason != told {
			told = reason
			hold(reason)
		}
		select {
		case <-ctx.Done():
			return
		case <-short:
			memory = "memory is short"
			over.Reset(quiet)
		case <-over.C:
			memory = ""
		case <-ticks:
			load = g.overloaded()
		}
	}
}

// overloaded says so, "" if it is not.
func (g *Gauge) overloaded() string {
	if n, err := g.running(); err != nil || float64(n) <= g.load {
		return ""
	}
	return fmt.Sprintf("the load is above %g", g.load)
}

// watchMemory passes on what the trigger tells.
func (g *Gauge) watchMemory(ctx context.Context, short chan<- struct{}) {
	begin := time.NewTimer(settle)
	defer begin.Stop()
	select {
	case <-begin.C:
	case <-ctx.Done():
		return
	}
	memory, err := g.memory()
	if err != nil {
		return
	}
	defer memory.Close()
	for memory.wait(ctx) == nil {
		select {
		case short <- struct{}{}:
		case <-ctx.Done():
		}
	}
}

// runnable is how many tasks have a processor or want one, but for this one.
func runnable() (int, error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	return parseRunnable(string(b))
}

func parseRunnable(s string) (int, error) {
	var averages [3]float64
	var running, all int
	if _, err := fmt.Sscanf(s, "%f %f %f %d/%d", &averages[0], &averages[1], &averages[2], &running, &all); err != nil {
		return 0, fmt.Errorf("read the load: %w", err)
	}
	return max(0, running-1), nil
}
