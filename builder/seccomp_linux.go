package builder

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rule is what the filter does about one system call.
type rule struct {
	call uint32
	mode int // which argument is a mode that must not have the setuid or setgid bit, or one of:
}

const (
	unsupported = -1 // by these files
	absent      = -2 // from this kernel
	socket      = -3 // the first argument is a family that must not be AF_VSOCK
	lease       = -4 // the second argument is a command that must not be F_SETLEASE or F_SETDELEG
)

// setDelegation is F_SETDELEG, of Linux 6.19.
const setDelegation = 1040

// abi is one system call interface of a machine, which has a numbering of its
// own.
type abi struct {
	arch  uint32 // AUDIT_ARCH_…
	mask  uint32 // cleared in call numbers
	rules []rule
}

// x32 calls come with the architecture of x86_64 and this bit in their numbers.
const x32Bit = 0x40000000

// abis are those that a builder could call on this machine, or nil where none
// are known.
func abis(goarch string) []abi {
	// The chmod family, the setxattr family, add_key, request_key and keyctl, socket, and fcntl.
	// Numbers from 424 on are the same everywhere: fchmodat2 and setxattrat, and
	// io_uring_setup, io_uring_enter and io_uring_register.
	switch goarch {
	case "amd64":
		return []abi{
			{unix.AUDIT_ARCH_X86_64, x32Bit, []rule{{90, 1}, {91, 1}, {268, 2}, {452, 2}, {188, unsupported}, {189, unsupported}, {190, unsupported}, {463, unsupported}, {248, absent}, {249, absent}, {250, absent}, {41, socket}, {72, lease}, {425, absent}, {426, absent}, {427, absent}}},
			{unix.AUDIT_ARCH_I386, 0, []rule{{15, 1}, {94, 1}, {306, 2}, {452, 2}, {226, unsupported}, {227, unsupported}, {228, unsupported}, {463, unsupported}, {286, absent}, {287, absent}, {288, absent}, {359, socket}, {55, lease}, {221, lease}, {425, absent}, {426, absent}, {427, absent}}},
		}
	case "arm64":
		return []abi{
			{unix.AUDIT_ARCH_AARCH64, 0, []rule{{52, 1}, {53, 2}, {452, 2}, {5, unsupported}, {6, unsupported}, {7, unsupported}, {463, unsupported}, {217, absent}, {218, absent}, {219, absent}, {198, socket}, {25, lease}, {425, absent}, {426, absent}, {427, absent}}},
			{unix.AUDIT_ARCH_ARM, 0, []rule{{15, 1}, {94, 1}, {333, 2}, {452, 2}, {226, unsupported}, {227, unsupported}, {228, unsupported}, {463, unsupported}, {309, absent}, {310, absent}, {311, absent}, {281, socket}, {55, lease}, {221, lease}, {425, absent}, {426, absent}, {427, absent}}},
		}
	}
	return nil
}

// Offsets in struct seccomp_data. The low half of an argument comes first: both
// architectures are little-endian.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// filterProgram answers EPERM to a chmod that sets the setuid or setgid bit, as
// Nix does, and ENOTSUP to whatever sets an extended attribute or an ACL, so
// that tools go on without. Keys it hides altogether, as if the kernel had none:
// they belong to users, whatever the namespace, and so would pass from build to
// build, or to a builder from the user who started it. It hides io_uring too, as
// container runtimes do: a ring ends later than the last process that has it, and
// with it the files that were registered, which may be of what the next build gets.
// There are no sockets of AF_VSOCK either: they lead past the network namespace to the
// hypervisor and to services of the host, and their ports are the machine's, so that
// builds see each other. (A 32-bit program of x86 can still get one by socketcall, whose
// arguments are in memory, where no filter looks.)
// And there are no leases, as on file systems without them: of files that are its own,
// as all are of the user that we are where that is not root, a builder could have one for
// its inputs, for which whoever opens them, through the mount too, would wait 45 seconds,
// again and again; and of what it leaves, one that ends later than it does.
// A file can be given these bits in other ways (open
// has a mode too): this filter tells honest builders early. What protects the
// host is that scratch directories are closed to others, and that an output with
// such a file is refused.
func filterProgram(all []abi) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		and  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	refuse := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	program := []unix.SockFilter{{Code: load, K: offsetArch}}
	for _, a := range all {
		block := []unix.SockFilter{{Code: load, K: offsetCall}}
		if a.mask != 0 {
			block = append(block, unix.SockFilter{Code: and, K: ^a.mask})
		}
		for _, r := range a.rules {
			if r.mode == unsupported || r.mode == absent {
				errno := unix.ENOTSUP
				if r.mode == absent {
					errno = unix.ENOSYS
				}
				block = append(block, unix.SockFilter{Code: jeq, K: r.call, Jf: 1}, refuse(errno))
				continue
			}
			if r.mode == lease {
				block = append(block,
					unix.SockFilter{Code: jeq, K: r.call, Jf: 5},
					unix.SockFilter{Code: load, K: offsetArgs + 8},
					unix.SockFilter{Code: jeq, K: unix.F_SETLEASE, Jt: 1},
					unix.SockFilter{Code: jeq, K: setDelegation, Jf: 1},
					refuse(unix.EINVAL),
					allow)
				continue
			}
			argument, test, errno := r.mode, unix.SockFilter{Code: jset, K: unix.S_ISUID | unix.S_ISGID, Jf: 1}, unix.EPERM
			if r.mode == socket {
				argument, test, errno = 0, unix.SockFilter{Code: jeq, K: unix.AF_VSOCK, Jf: 1}, unix.EAFNOSUPPORT
			}
			block = append(block,
				unix.SockFilter{Code: jeq, K: r.call, Jf: 4},
				unix.SockFilter{Code: load, K: offsetArgs + 8*uint32(argument)},
				test,
				refuse(errno),
				allow)
		}
		block = append(block, allow)
		program = append(program, unix.SockFilter{Code: jeq, K: a.arch, Jf: uint8(len(block))})
		program = append(program, block...)
	}
	return append(program, allow)
}

// checkFilter reports whether there is a filter for a machine: without one, builders could
// do more than they may.
func checkFilter(goarch string) error {
	if abis(goarch) == nil {
		return fmt.Errorf("builders cannot be confined on %s: there is a filter of system calls for amd64 and arm64 only", goarch)
	}
	return nil
}

// filter installs the filter, with flags of seccomp(2). It needs no_new_privs or
// the right to do without. See checkFilter.
func (p *program) filter(flags uintptr) {
	list := filterProgram(abis(runtime.GOARCH))
	size := int(unsafe.Sizeof(list[0]))
	memory := p.bytes(len(list) * size)
	for i, f := range list {
		*(*unix.SockFilter)(unsafe.Pointer(&memory[i*size])) = f
	}
	fprog := place(p, struct { // struct sock_fprog
		n    uint16
		list uintptr
	}{uint16(len(list)), address(memory)})
	p.call("install seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, fprog)
}
