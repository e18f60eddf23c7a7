package main

// floorSize is how much garbage an owner that builds may make, at least, before
// it is collected. A build leaves 100 kB of it, what lives is a few megabytes,
// and so the collector would run for every twentieth build, for an eighth of the
// owner's time. What it takes is address space, and memory only as far as there
// is garbage. Who has nothing to build needs none.
const floorSize = 12 << 20
