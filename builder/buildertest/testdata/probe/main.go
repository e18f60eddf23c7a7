// Probe does, as a builder, what a shell cannot. Its first argument says what;
// it prints what came of it.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	switch os.Args[1] {
	case "chmod": // by each system call that can
		file, _ := syscall.BytePtrFromString(os.Args[2])
		at := -100
		fd, err := syscall.Open(os.Args[2], syscall.O_RDWR|syscall.O_CREAT, 0o644)
		check(err)
		for _, mode := range []uintptr{0o755, 0o4755, 0o2755} {
			fmt.Printf("fchmod %o: %v\n", mode, call(syscall.SYS_FCHMOD, uintptr(fd), mode, 0))
			fmt.Printf("fchmodat %o: %v\n", mode, call(syscall.SYS_FCHMODAT, uintptr(at), uintptr(unsafe.Pointer(file)), mode))
			fmt.Printf("fchmodat2 %o: %v\n", mode, call(452, uintptr(at), uintptr(unsafe.Pointer(file)), mode))
		}
	case "xattr":
		fmt.Println(syscall.Setxattr(os.Args[2], "user.x", []byte("y"), 0))
	case "setuid": // by the mode of open, which no filter sees
		fd, err := syscall.Open(os.Args[2], syscall.O_WRONLY|syscall.O_CREAT, 0o4755)
		check(err)
		check(syscall.Close(fd))
	case "socket":
		l, err := net.Listen("unix", os.Args[2])
		check(err)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
	case "lease": // so that who opens it for reading waits
		fd, err := syscall.Open(os.Args[2], syscall.O_RDONLY, 0)
		check(err)
		fmt.Println(call(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETLEASE, syscall.F_WRLCK))
	case "vsock":
		_, err := syscall.Socket(40, syscall.SOCK_STREAM, 0) // AF_VSOCK
		fmt.Println(err)
	case "give": // a directory, or a file that is open for writing, to whoever comes
		f, err := os.OpenFile(os.Args[2], os.O_RDWR, 0)
		if err != nil {
			f, err = os.Open(os.Args[2]) // a directory
		}
		check(err)
		l, err := net.Listen("unix", os.Args[3])
		check(err)
		c, err := l.Accept()
		check(err)
		_, _, err = c.(*net.UnixConn).WriteMsgUnix([]byte("x"), syscall.UnixRights(int(f.Fd())), nil)
		check(err)
	case "reach": // what others have, and then what is its own
		for _, network := range []string{"unix", "unixgram"} {
			_, err := net.Dial(network, os.Args[2]+network)
			fmt.Println(err)
		}
		l, err := net.Listen("unix", os.Args[2]+"own")
		check(err)
		_, err = net.Dial("unix", os.Args[2]+"own")
		fmt.Println(err)
		check(l.Close())
	case "deaf": // ends its output, goes on, and makes a file
		for fd := range 3 {
			check(syscall.Close(fd))
		}
		time.Sleep(300 * time.Millisecond)
		check(os.WriteFile(os.Args[2], []byte("done"), 0o644))
	case "fault": // as a C program does that reads from where nothing is
		var dfl [32]byte
		call4(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGSEGV), uintptr(unsafe.Pointer(&dfl)), 0, 8)
		var p *int
		*p = 1
	case "code": // memory for it, of a device
		f, err := os.OpenFile(os.Args[2], os.O_RDWR, 0)
		check(err)
		_, err = syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC, syscall.MAP_PRIVATE)
		check(err)
	case "dial": // the host's network, by an address that only it has
		_, err := net.DialTimeout("tcp", os.Args[2], time.Second)
		fmt.Println(err)
	case "flight": // as many descriptors in messages that nobody takes as its user may have
		fds := make([]int, 253) // the most in one message
		for full := false; !full; {
			pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			check(err)
			for i := range fds {
				fds[i] = pair[0]
			}
			for err = nil; err == nil; {
				err = syscall.Sendmsg(pair[0], []byte("x"), syscall.UnixRights(fds...), nil, syscall.MSG_DONTWAIT)
			}
			full = err != syscall.EAGAIN
			if full {
				fmt.Println(err)
			}
		}
		time.Sleep(time.Hour)
	case "inotify": // as many instances as there may be
		n := 0
		for {
			_, err := syscall.InotifyInit1(0)
			if err != nil {
				fmt.Println(n, err)
				break
			}
			n++
		}
		time.Sleep(time.Hour)
	case "control group": // a namespace of it
		p, err := os.StartProcess(os.Args[0], []string{"probe", "nothing"}, &os.ProcAttr{
			Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWCGROUP},
		})
		if err == nil {
			_, err = p.Wait()
		}
		fmt.Println(err)
	case "deep": // directories in one another, each closed
		n, err := strconv.Atoi(os.Args[2])
		check(err)
		for range n {
			check(syscall.Mkdir("directory", 0o700))
			check(syscall.Chdir("directory"))
			check(syscall.Chmod("../.", 0o500))
		}
	case "nested": // a user namespace of its own, in which it is root
		if len(os.Args) > 3 {
			fmt.Println("remount:", syscall.Mount("", os.Args[2], "", syscall.MS_REMOUNT|syscall.MS_BIND, ""))
			fmt.Println("unmount:", syscall.Unmount(os.Args[2], syscall.MNT_DETACH))
			fmt.Println("write:", os.WriteFile(os.Args[2]+"/new", nil, 0o644))
			return
		}
		p, err := os.StartProcess(os.Args[0], []string{"probe", "nested", os.Args[2], "inside"}, &os.ProcAttr{
			Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
			Sys: &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100, Size: 1}},
			},
		})
		if err != nil {
			fmt.Println("namespace:", err)
			return
		}
		_, err = p.Wait()
		check(err)
	}
}

func call(nr, a, b, c uintptr) string { return call4(nr, a, b, c, 0) }

func call4(nr, a, b, c, d uintptr) string {
	_, _, errno := syscall.RawSyscall6(nr, a, b, c, d, 0, 0)
	if errno != 0 {
		return errno.Error()
	}
	return "ok"
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
