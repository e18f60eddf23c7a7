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
		unix.CAP_SYS_RESOURCE, // allowance
	}
}

// dropPrivileges makes the process the build user without any capability, now or
// by any exec.
func (p *program) dropPrivileges() {
	p.call("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	for c := uintptr(0); ; c++ {
		if _, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, c, 0); errno != 0 { // past the last that this kernel has
			break
		}
		p.call(fmt.Sprintf("drop capability %d from the bounding set", c), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0)
	}
	// Where an ordinary user made the namespace, supplementary groups cannot
	// be changed.
	p.call("drop groups", unix.SYS_SETGROUPS, 0, 0).unless(unix.EPERM)
	if os.Getgid() != sandboxGID {
		p.call(fmt.Sprintf("become gid %d", sandboxGID), unix.SYS_SETRESGID, sandboxGID, sandboxGID, sandboxGID)
	}
	if os.Getuid() != sandboxUID {
		p.call(fmt.Sprintf("become uid %d", sandboxUID), unix.SYS_SETRESUID, sandboxUID, sandboxUID, sandboxUID)
	}
	p.call("drop ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := place(p, unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3})
	p.call("drop capabilities", unix.SYS_CAPSET, header, place(p, [2]unix.CapUserData{}))
}
