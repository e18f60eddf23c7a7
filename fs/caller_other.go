//go:build !amd64

package fs

// writesLegacy: newer architectures have only the system calls with "at".
func writesLegacy(int64, uint64) bool { return false }

func refusesLinksLegacy(int64, uint64) bool { return false }
