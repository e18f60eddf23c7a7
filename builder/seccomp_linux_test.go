package builder

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// interpret runs a filter program as the kernel does, for the few instructions
// that ours has.
func interpret(t *testing.T, program []unix.SockFilter, arch, call uint32, args ...uint64) uint32 {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, call)
	data = binary.LittleEndian.AppendUint32(data, arch)
	data = binary.LittleEndian.AppendUint64(data, 0)
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		data = binary.LittleEndian.AppendUint64(data, a)
	}
	var acc uint32
	for pc := 0; ; pc++ {
		in := program[pc]
		yes := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[in.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			yes = acc == in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			yes = acc&in.K != 0
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
		if yes {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
}

func TestFilter(t *testing.T) {
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enotup = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTSUP)
		enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		einval = unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)
		family = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
	)
	type calls struct{ chmod, fchmod, fchmodat, setxattr, lsetxattr, fsetxattr, open, read, addKey, requestKey, keyctl, socket, fcntl uint32 }
	for goarch, machines := range map[string]map[string]struct {
		arch uint32
		n    calls
	}{
		"amd64": {
			"x86_64": {unix.AUDIT_ARCH_X86_64, calls{90, 91, 268, 188, 189, 190, 2, 0, 248, 249, 250, 41, 72}},
			"x32":    {unix.AUDIT_ARCH_X86_64, calls{x32Bit | 90, x32Bit | 91, x32Bit | 268, x32Bit | 188, x32Bit | 189, x32Bit | 190, x32Bit | 2, x32Bit, x32Bit | 248, x32Bit | 249, x32Bit | 250, x32Bit | 41, x32Bit | 72}},
			"i386":   {unix.AUDIT_ARCH_I386, calls{15, 94, 306, 226, 227, 228, 5, 3, 286, 287, 288, 359, 221}},
		},
		"arm64": {
			"aarch64": {unix.AUDIT_ARCH_AARCH64, calls{0, 52, 53, 5, 6, 7, 56, 63, 217, 218, 219, 198, 25}},
			"arm":     {unix.AUDIT_ARCH_ARM, calls{15, 94, 333, 226, 227, 228, 5, 3, 309, 310, 311, 281, 221}},
		},
	} {
		program := filterProgram(abis(goarch))
		for name, m := range machines {
			check := func(want, call uint32, args ...uint64) {
				t.Helper()
				if got := interpret(t, program, m.arch, call, args...); got != want {
					t.Errorf("%s: call %d%v: %#x, want %#x", name, call, args, got, want)
				}
			}
			for _, mode := range []struct {
				mode uint64
				want uint32
			}{
				{0o755, allow},
				{0o1777, allow},
				{0o4755, eperm},
				{0o2755, eperm},
				{0o6000, eperm},
				{0xffffffff_00000000 | 0o644, allow}, // the kernel looks at the low half only
			} {
				if m.n.chmod != 0 {
					check(mode.want, m.n.chmod, 0, mode.mode)
				}
				check(mode.want, m.n.fchmod, 3, mode.mode)
				check(mode.want, m.n.fchmodat, 3, 0, mode.mode)
				check(mode.want, 452, 3, 0, mode.mode)
			}
			check(enotup, m.n.setxattr)
			check(enotup, m.n.lsetxattr)
			check(enotup, m.n.fsetxattr)
			check(enotup, 463)
			check(enosys, m.n.addKey)
			check(enosys, m.n.requestKey)
			check(enosys, m.n.keyctl)
			check(family, m.n.socket, unix.AF_VSOCK, unix.SOCK_STREAM)
			check(family, m.n.socket, 0xffffffff_00000000|unix.AF_VSOCK, unix.SOCK_STREAM)
			check(allow, m.n.socket, unix.AF_INET, unix.AF_VSOCK)
			fcntls := []uint32{m.n.fcntl}
			if m.n.fcntl == 221 { // fcntl64
				fcntls = append(fcntls, 55)
			}
			for _, call := range fcntls {
				check(einval, call, 3, unix.F_SETLEASE, unix.F_WRLCK)
				check(einval, call, 3, 0xffffffff_00000000|unix.F_SETLEASE, unix.F_RDLCK)
				check(einval, call, 3, 1024+16) // F_SETDELEG
				check(allow, call, 3, unix.F_SETLK, unix.F_SETLEASE)
				check(allow, call, unix.F_SETLEASE, unix.F_SETFL)
			}
			for call := uint32(425); call <= 427; call++ {
				check(enosys, call)
			}
			check(allow, m.n.open, 0, 0, 0o4755)
			check(allow, m.n.read, 0o4755, 0o4755, 0o4755)
		}
		if got := interpret(t, program, unix.AUDIT_ARCH_S390, 90, 0, 0o4755); got != allow {
			t.Errorf("another machine: %#x", got)
		}
	}
	if abis("riscv64") != nil {
		t.Error("there are rules for a machine whose numbers nobody looked up")
	}
	for goarch, confined := range map[string]bool{"amd64": true, "arm64": true, "riscv64": false, "386": false} {
		if err := checkFilter(goarch); (err == nil) != confined {
			t.Errorf("%s: %v", goarch, err)
		}
	}
}
