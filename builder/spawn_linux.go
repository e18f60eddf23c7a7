package builder

import (
	"encoding/json"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces are all those that a sandbox has of its own, but for the network
// that a fixed output needs. One call makes them, for root and ordinary users
// alike.
const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// child is a sandbox child, which is or becomes a builder.
type child struct {
	process *os.Process
	control *os.File
}

// spawn starts a child of the calling thread that follows s and writes what
// the builder writes to log. The child runs this program again: what a forked
// child of a Go program can do without that is next to nothing.
func spawn(s *spec, ids identity, log *os.File) (*child, error) {
	text, err := specFile(s)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	// Only a descriptor that does not block can be read without a thread.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	ours := os.NewFile(uintptr(pair[0]), "control")

	flags := uintptr(namespaces)
	if !s.Network {
		flags |= unix.CLONE_NEWNET
	}
	process, err := os.StartProcess("/proc/self/exe", []string{childName}, &os.ProcAttr{
		Dir: "/",
		Env: []string{},
		Files: []*os.File{
			0: null, 1: log, 2: log,
			specFD: text, controlFD: theirs,
		},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 flags,
			UidMappings:                ids.uids,
			GidMappings:                ids.gids,
			GidMappingsEnableSetgroups: ids.setgroups,
			AmbientCaps:                setUpCaps(),
			Setsid:                     true,
		},
	})
	if err != nil {
		ours.Close()
		return nil, diagnose("start a sandbox: "+err.Error(), errnoOf(err))
	}
	return &child{process, ours}, nil
}

// specFile is s in a file that has no name.
func specFile(s *spec) (*os.File, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "spec")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
