package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device is a FUSE connection of the kernel, apart from whoever serves it: it
// lives as long as any process has its descriptor open, and requests that are
// not answered wait until then.
type device struct {
	file *os.File
	// init is the kernel's first request, INIT, and reply what it was answered.
	// It is sent once; every later server has to agree to the same.
	init, reply []byte
}

// openDevice mounts a new connection at dir.
func openDevice(dir string, allowOther, direct bool) (*device, error) {
	var file *os.File
	var err error
	if direct {
		file, err = mountDirect(dir, allowOther)
	} else {
		file, err = mountByFusermount(dir, allowOther)
	}
	if err != nil {
		return nil, err
	}
	d := &device{file: file}
	buf := make([]byte, inputSize)
	n, err := retry(func() (int, error) { return unix.Read(d.fd(), buf) })
	if err != nil {
		file.Close()
		return nil, errors.Join(fmt.Errorf("read the kernel's first request: %w", err), unmountAt(dir, direct, true))
	}
	d.init = slices.Clone(buf[:n])
	return d, nil
}

func (d *device) fd() int { return int(d.file.Fd()) }

// maxRead is what one READ asks for at most: with the usual 128 KiB, the first
// read of a big file takes up to a tenth more of the processors. A pipe of
// pipeSize has room for it, and for no more.
const maxRead = 512 << 10

// mountDirect mounts by the system call.
func mountDirect(dir string, allowOther bool) (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40555,user_id=%d,group_id=%d,%s", fd, os.Geteuid(), os.Getegid(), mountOpts(allowOther))
	// Read-only as a property of the superblock: else every read makes the
	// attributes (its access time) out of date.
	if err := unix.Mount(fsName, dir, "fuse."+fsName, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// mountOpts are the options of every mount. default_permissions: the kernel
// decides by the attributes, and asks for those of a placeholder before it goes
// on.
func mountOpts(allowOther bool) string {
	opts := fmt.Sprintf("default_permissions,max_read=%d", maxRead)
	if allowOther {
		opts += ",allow_other"
	}
	return opts
}

// mountByFusermount lets fusermount3 mount, which sends the descriptor back
// through a socket.
func mountByFusermount(dir string, allowOther bool) (*os.File, error) {
	bin, err := fusermount()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
	defer ours.Close()
	cmd := exec.Command(bin, "-o", mountOpts(allowOther)+",ro,nosuid,nodev,fsname="+fsName+",subtype="+fsName, "--", dir)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	out, err := cmd.CombinedOutput()
	theirs.Close()
	if err != nil {
		if line := bytes.TrimSpace(out); len(line) > 0 {
			text := strings.TrimPrefix(strings.TrimPrefix(string(line), bin+": "), "fusermount3: ")
			err = errors.New(text + mayNotMount(text))
		}
		return nil, fmt.Errorf("fusermount3: %w", err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 16), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fusermount3: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return nil, errors.Join(errors.New("fusermount3 sent no descriptor"), err)
	}
	got, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(got) == 0 {
		return nil, errors.Join(errors.New("fusermount3 sent no descriptor"), err)
	}
	return os.NewFile(uintptr(got[0]), "/dev/fuse"), nil
}

// resendable reports whether the kernel can repeat requests: Linux 6.9.
func (d *device) resendable() bool {
	in := new(fuse.InitIn)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(in)), unsafe.Sizeof(*in)), d.init)
	return in.Flags64()&fuse.CAP_HAS_RESEND != 0
}

// flags are the capabilities that were agreed upon.
func (d *device) flags() uint64 { return initOut(d.reply).Flags64() }

// initOut is the body of an answer to INIT.
func initOut(reply []byte) *fuse.InitOut {
	out := new(fuse.InitOut)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(out)), unsafe.Sizeof(*out)), reply[min(len(reply), outHeader):])
	return out
}

// outHeader is the size of struct fuse_out_header: length, error, unique.
const outHeader = 16

func appendHeader(b []byte, length int, code int32, unique uint64) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(length))
	b = binary.NativeEndian.AppendUint32(b, uint32(code))
	return binary.NativeEndian.AppendUint64(b, unique)
}

// pending reports whether a request waits to be read.
func (d *device) pending() bool {
	fds := []unix.PollFd{{Fd: int32(d.fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 && err == nil
}

// notify sends a notification: unique 0, and its code in the error's place.
func (d *device) notify(code int32, body []byte) error {
	b := append(appendHeader(nil, outHeader+len(body), code, 0), body...)
	_, err := retry(func() (int, error) { return unix.Write(d.fd(), b) })
	return err
}

// resend makes the kernel repeat all requests that were read and not answered.
// Whoever read them must be gone.
func (d *device) resend() error {
	if err := d.notify(-fuse.NOTIFY_RESEND, nil); err != nil {
		return fmt.Errorf("make the kernel repeat its requests: %w", err)
	}
	return nil
}

// InodeNotify makes the kernel drop what it keeps of a node.
func (d *device) InodeNotify(node uint64, off, length int64) error {
	b := binary.NativeEndian.AppendUint64(nil, node)
	b = binary.NativeEndian.AppendUint64(b, uint64(off))
	return d.notify(-fuse.NOTIFY_INVAL_INODE, binary.NativeEndian.AppendUint64(b, uint64(length)))
}

// maxPrune is how many nodes the kernel is told of at a time.
const maxPrune = 2048

// Prune makes the kernel drop nodes that nobody uses; one that is below another
// stands before it. Kernels before 6.18 keep them until memory is short.
func (d *device) Prune(nodes []uint64) error {
	for ids := range slices.Chunk(nodes, maxPrune) {
		b := binary.NativeEndian.AppendUint32(nil, uint32(len(ids)))
		b = append(b, make([]byte, 12)...) // padding, spare
		for _, id := range ids {
			b = binary.NativeEndian.AppendUint64(b, id)
		}
		if err := d.notify(-fuse.NOTIFY_PRUNE, b); err != nil {
			return err
		}
	}
	return nil
}

// Requests of ioctl(2) on a connection (linux/fuse.h).
const (
	backingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	backingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

// openBacking gives the kernel a file to read without us, and returns its id.
func (d *device) openBacking(fd int) (int32, error) {
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd()), backingOpen, uintptr(unsafe.Pointer(&fuse.BackingMap{Fd: int32(fd)})))
	if errno != 0 {
		return 0, errno
	}
	return int32(id), nil
}

// closeBacking takes it back. What has it open reads on.
func (d *device) closeBacking(id int32) {
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd()), backingClose, uintptr(unsafe.Pointer(&id)))
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
