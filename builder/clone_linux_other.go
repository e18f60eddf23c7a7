//go:build linux && !amd64 && !arm64

package builder

import "golang.org/x/sys/unix"

// canClone says that cloneAndCall exists for this architecture. Nothing is built on
// these: see checkFilter.
const canClone = false

func cloneAndCall(*cloneArgs, uintptr, *call, *result) int { return -int(unix.ENOSYS) }
