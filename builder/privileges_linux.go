package builder

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// setUpCaps are the capabilities, within its own user namespace, that a sandbox
// child keeps through its exec until dropPrivileges.
func setUpCaps() []uintptr {
	return []uintptr{
		unix.CAP_SYS_ADMIN,               // mounts, host name
		unix.CAP_NET_ADMIN,               // loopback
		unix.CAP_DAC_OVERRIDE,            // a state directory below directories of mode 0700
		unix.CAP_SETUID, unix.CAP_SETGID, // become the build user
		unix.CAP_SETPCAP,                // empty the bounding set
		unix.CAP_CHOWN, unix.CAP_FOWNER, // stubs
	}
}

// dropPrivileges makes this thread the build user without any capability, now or
// by any exec. It uses raw system calls: package syscall would change all
// threads, and the others do not live to see the builder.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL { // past the last that this kernel has
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	// Where an ordinary user made the namespace, supplementary groups cannot
	// be changed.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 && errno != unix.EPERM {
		return fmt.Errorf("drop groups: %w", errno)
	}
	if os.Getgid() != sandboxGID {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, sandboxGID, sandboxGID, sandboxGID); errno != 0 {
			return fmt.Errorf("become gid %d: %w", sandboxGID, errno)
		}
	}
	if os.Getuid() != sandboxUID {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, sandboxUID, sandboxUID, sandboxUID); errno != 0 {
			return fmt.Errorf("become uid %d: %w", sandboxUID, errno)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
