package instantiate

import (
	"fmt"
	"runtime/metrics"
	"time"
)

// DefaultMaxMemory is what an evaluation may take when Options.MaxMemory is 0: 2 GiB.
const DefaultMaxMemory = 2 << 30

// memoryPeriod is how often its memory is looked at.
const memoryPeriod = 50 * time.Millisecond

// watchMemory calls over, once, when the heap has grown by more than most bytes, until
// stop is called.
func watchMemory(most uint64, over func(reason string)) (stop func()) {
	begin := heapSize()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(memoryPeriod)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			if size := heapSize(); size > begin && size-begin > most {
				over(fmt.Sprintf("more than %d MiB of memory", most>>20))
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
func heapSize() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
