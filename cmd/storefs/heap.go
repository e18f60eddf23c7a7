package main

// heapFloor is how much garbage an owner may make, at least, before it is
// collected. A build leaves 100 kB of it, what lives is a few megabytes, and so
// the collector would run for every twentieth build, for an eighth of the
// owner's time. What it takes is address space, and memory only as far as there
// is garbage.
const heapFloor = 12 << 20

// newHeapFloor is something of that size for the collector to count. It looks
// nothing up in it, and nobody writes to it.
func newHeapFloor() []byte { return make([]byte, heapFloor) }
