package instantiate

import (
	"fmt"
	"runtime/metrics"
	"time"
)

const (
	// DefaultMaxMemory is what an evaluation may take when Options.MaxMemory is 0: 2 GiB.
	DefaultMaxMemory = 2 << 30
	// DefaultMaxOperation is what one operation may take when Options.MaxOperation is 0.
	DefaultMaxOperation = 20 * time.Second
)

// floorSize is how much garbage an evaluation may make, at least, before it is collected:
// most end sooner, and where the heap grows, it would be collected at each doubling. What
// it takes is address space, and memory only as far as there is garbage.
const floorSize = 64 << 20

// watchPeriod is how often an evaluation is looked at.
const watchPeriod = 50 * time.Millisecond

// watch calls over, once, when the heap has grown by more than memory bytes, beside the
// floor that an evaluation has, or when
// nothing was heard from the pulse while the process used its processors for the time
// operation, until stop is called.
func watch(memory uint64, operation time.Duration, p *pulse, over func(reason string)) (stop func()) {
	begin := heapSize()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(watchPeriod)
		defer tick.Stop()
		last, since := p.beats.Load(), processorTime()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			if size := heapSize(); size > begin && size-begin > floorSize+memory {
				over(fmt.Sprintf("more than %d MiB of memory", memory>>20))
				return
			}
			now := processorTime()
			if beats := p.beats.Load(); beats != last || p.reading.Load() {
				last, since = beats, now
			} else if now-since > operation {
				over(fmt.Sprintf("one operation takes more than %s of processor time", operation))
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// heapSize is that of all objects, those that are garbage and not collected yet
// included.
func heapSize() uint64 { return metric("/memory/classes/heap/objects:bytes") }

// allocated is the size of all objects that there ever were.
func allocated() uint64 { return metric("/gc/heap/allocs:bytes") }

func metric(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
