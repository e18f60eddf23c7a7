//go:build race

package normaliser

// many goals: the race detector is slow, and counts as memory in use.
const many = 10_000
