//go:build linux && (amd64 || arm64)

package builder

// canClone says that cloneAndCall exists for this architecture.
const canClone = true

// cloneAndCall is clone3, whose child makes calls, which end by an exec or an
// exit, and nothing else: not one instruction of Go. A call that fails ends it,
// and stands in result. The child uses the parent's memory until its exec: calls
// and what they point to must stay where they are. The result is the child's
// pid, or a negative errno.
func cloneAndCall(args *cloneArgs, size uintptr, calls *call, result *result) int
