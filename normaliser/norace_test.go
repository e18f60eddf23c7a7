//go:build !race

package normaliser

const many = 100_000
