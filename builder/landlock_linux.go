package builder

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scopingABI is the version of Landlock, that of Linux 6.12, from which on it knows of
// abstract sockets.
const scopingABI = 6

// keepFromHostSockets adds what keeps a builder that has the host's network from abstract
// Unix sockets that are not its own. They belong to a network, and not to a file system: a
// service of the host may think that only its friends are there, and a process that waits
// at one could be given files, which outlive the build. Sockets that have files are not in
// the sandbox.
//
// Nothing else is restricted, mounts in a namespace of the builder's own among it: those
// Landlock forbids where it restricts files. (A builder that restricts its own files that
// way cannot move them from directory to directory then, EXDEV: no two sets of rules allow
// that if one of them says nothing of files.) On a kernel that cannot do it, builds go on
// without. So what such a builder leaves is copied in any case, also because whoever is
// outside may still come to a socket of the builder's.
func (p *program) keepFromHostSockets() error {
	version, _, _ := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if int(version) < scopingABI { // or an error, if it is off
		return nil
	}
	attr := unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}
	// Closed by the exec. What this kernel does not know is zero at its end.
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("make Landlock rules: %w", errno)
	}
	p.call("keep from abstract sockets of the host", unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0)
	return nil
}
