// Trace leaves traces of itself wherever a builder can, or looks for those of
// others: everything that it sees and that another build could have changed.
package main

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	// The number of a network that no other ever has: SO_NETNS_COOKIE.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	check(err)
	var cookie uint64
	size := uint32(8)
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.SOL_SOCKET, 71, uintptr(unsafe.Pointer(&cookie)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		panic(errno)
	}
	check(syscall.Close(fd))
	fmt.Println(cookie)
	switch os.Args[1] {
	case "look":
		look()
	case "tcp": // a connection that lingers
		l, err := net.Listen("tcp", "127.0.0.1:5000")
		check(err)
		c, err := net.Dial("tcp", "127.0.0.1:5000")
		check(err)
		s, err := l.Accept()
		check(err)
		check(s.Close())
		check(c.Close())
		time.Sleep(10 * time.Millisecond)
	case "tcp6":
		l, err := net.Listen("tcp", "[::1]:5000")
		check(err)
		c, err := net.Dial("tcp", "[::1]:5000")
		check(err)
		check(c.Close())
		check(l.Close())
	case "udp":
		c, err := net.Dial("udp", "127.0.0.1:9")
		check(err)
		_, err = c.Write([]byte("x"))
		check(err)
	case "refused":
		if _, err := net.Dial("tcp", "127.0.0.1:9"); err == nil {
			panic("somebody listens")
		}
	case "no route":
		if _, err := net.DialTimeout("tcp", "192.0.2.1:9", time.Second); err == nil {
			panic("there is a network")
		}
	case "no route6":
		if _, err := net.DialTimeout("tcp", "[2001:db8::1]:9", time.Second); err == nil {
			panic("there is a network")
		}
	case "group": // which is left at once
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
		check(err)
		check(syscall.SetsockoptIPMreqn(fd, syscall.IPPROTO_IP, syscall.IP_ADD_MEMBERSHIP, &syscall.IPMreqn{Multiaddr: [4]byte{239, 1, 2, 3}, Ifindex: 1}))
		check(syscall.Close(fd))
	case "group6":
		fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM, 0)
		check(err)
		check(syscall.SetsockoptIPv6Mreq(fd, syscall.IPPROTO_IPV6, syscall.IPV6_JOIN_GROUP, &syscall.IPv6Mreq{Multiaddr: [16]byte{0xff, 5, 15: 1}, Interface: 1}))
		check(syscall.Close(fd))
	case "flow label": // which outlives its socket, without a packet
		fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM, 0)
		check(err)
		// struct in6_flowlabel_req, of linux/in6.h: to ::1, IPV6_FL_A_GET,
		// IPV6_FL_S_EXCL, IPV6_FL_F_CREATE.
		label := struct {
			to                      [16]byte
			label                   [4]byte
			action, share           uint8
			flags, expires, lingers uint16
			_                       uint32
		}{to: [16]byte(net.IPv6loopback), label: [4]byte{0, 1, 2, 3}, share: 1, flags: 1, expires: 6, lingers: 6}
		const flowLabelManager = 32 // IPV6_FLOWLABEL_MGR
		_, _, errno := syscall.Syscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), syscall.IPPROTO_IPV6, flowLabelManager, uintptr(unsafe.Pointer(&label)), unsafe.Sizeof(label), 0)
		if errno != 0 {
			panic(errno)
		}
		check(syscall.Close(fd))
	case "flight": // sockets that only messages between them keep, with a name
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
		check(err)
		named, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
		check(err)
		check(syscall.Bind(named, &syscall.SockaddrUnix{Name: "@left"}))
		check(syscall.Sendmsg(fds[0], []byte("x"), syscall.UnixRights(fds[0], fds[1], named), nil, 0))
	case "keys":
		kind, name, text := bytes("user"), bytes("left"), bytes("secret")
		for _, ring := range []int{-3, -4, -5} { // session, user, user's session
			_, _, errno := syscall.Syscall6(syscall.SYS_ADD_KEY, ptr(kind), ptr(name), ptr(text), 6, uintptr(ring), 0)
			fmt.Println(errno)
		}
	case "ipc":
		for _, call := range []uintptr{syscall.SYS_SHMGET, syscall.SYS_SEMGET, syscall.SYS_MSGGET} {
			_, _, errno := syscall.Syscall(call, 4711, 1, 0o1600)
			if call == syscall.SYS_MSGGET {
				_, _, errno = syscall.Syscall(call, 4711, 0o1600, 0)
			}
			if errno != 0 {
				panic(errno)
			}
		}
		check(os.WriteFile("/dev/shm/left", nil, 0o666))
		attr := [4]uintptr{}
		if _, _, errno := syscall.Syscall6(syscall.SYS_MQ_OPEN, ptr(bytes("left")), syscall.O_CREAT|syscall.O_RDWR, 0o600, 0, 0, 0); errno != 0 {
			panic(fmt.Sprint(errno, attr))
		}
	case "memory that was": // with nothing left of it, and so below
		object(syscall.SYS_SHMGET, 0, 1, 0o1600)
	case "semaphores that were":
		object(syscall.SYS_SEMGET, 0, 1, 0o1600)
	case "messages that were":
		object(syscall.SYS_MSGGET, 0, 0o1600, 0)
	case "queue that was":
		if _, _, errno := syscall.Syscall6(syscall.SYS_MQ_OPEN, ptr(bytes("was")), syscall.O_CREAT|syscall.O_RDWR, 0o600, 0, 0, 0); errno != 0 {
			panic(errno)
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MQ_UNLINK, ptr(bytes("was")), 0, 0); errno != 0 {
			panic(errno)
		}
	case "no objects": // what is refused leaves nothing
		for _, call := range []uintptr{syscall.SYS_SHMGET, syscall.SYS_SEMGET} {
			if _, _, errno := syscall.Syscall(call, 0, 0, 0o1600); errno != syscall.EINVAL {
				panic(errno)
			}
		}
	case "files":
		for _, dir := range dirs() {
			check(os.WriteFile(dir+"/.left", []byte("secret"), 0o666))
			check(os.MkdirAll(dir+"/.d/e/f", 0o700))
			check(os.Symlink("/etc", dir+"/left"))
			check(os.Chmod(dir+"/.d/e", 0))
		}
	case "many files": // a directory does not shrink again
		for i := range 300 {
			check(os.WriteFile(fmt.Sprintf("/build/a-rather-long-name-of-a-file-%d", i), nil, 0o666))
		}
	case "mode":
		check(os.Chmod("/build", 0o777))
	case "flags": // FS_IOC_SETFLAGS: no dump, no access times
		f, err := os.Open("/build")
		check(err)
		flags := uint32(0x40 | 0x80)
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x40086602, uintptr(unsafe.Pointer(&flags))); errno != 0 {
			fmt.Println("no flags here:", errno)
		}
	case "age":
		for _, dir := range []string{"/dev/shm", "/dev/pts"} {
			var st syscall.Stat_t
			check(syscall.Lstat(dir, &st))
			fmt.Print(st.Mtim, " ")
		}
		fmt.Println()
	case "rename": // stubs of inputs
		entries, err := os.ReadDir(os.Getenv("NIX_STORE"))
		check(err)
		for _, e := range entries {
			p := os.Getenv("NIX_STORE") + "/" + e.Name()
			_ = os.Chmod(p, 0o777)
			_ = os.Rename(p, p+".moved")
			_ = os.Remove(p)
			_ = os.WriteFile(p+"/left", nil, 0o666)
			_ = os.Chtimes(p, time.Now(), time.Now())
		}
	default:
		panic(os.Args[1])
	}
}

func dirs() []string { return []string{"/build", "/tmp", os.Getenv("NIX_STORE")} }

// object makes one of System V's, looks which number it has, and removes it.
func object(call uintptr, args ...uintptr) {
	id, _, errno := syscall.Syscall(call, args[0], args[1], args[2])
	if errno != 0 {
		panic(errno)
	}
	if id != 0 {
		panic(fmt.Sprint("the first object has the number ", id))
	}
	control := map[uintptr]uintptr{syscall.SYS_SHMGET: syscall.SYS_SHMCTL, syscall.SYS_SEMGET: syscall.SYS_SEMCTL, syscall.SYS_MSGGET: syscall.SYS_MSGCTL}[call]
	if _, _, errno := syscall.Syscall(control, id, 0, 0); errno != 0 { // IPC_RMID
		panic(errno)
	}
}

// look prints what there is, but for times, and for numbers that count namespaces
// and processes.
func look() {
	for _, dir := range append(dirs(), "/", "/dev", "/dev/shm", "/dev/pts", "/etc") {
		var st syscall.Stat_t
		check(syscall.Lstat(dir, &st))
		fmt.Printf("%s %o %d %d %d %d\n", dir, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size)
		f, err := os.Open(dir)
		check(err)
		var flags uint32
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x80086601, uintptr(unsafe.Pointer(&flags)))
		names, err := syscall.Listxattr(dir, nil)
		fmt.Println(flags, names, err)
		entries, err := os.ReadDir(dir)
		check(err)
		for _, e := range entries {
			info, err := e.Info()
			check(err)
			fmt.Println(" ", info.Mode(), info.Size(), e.Name())
		}
	}
	for _, file := range []string{"keys", "key-users", "sysvipc/shm", "sysvipc/sem", "sysvipc/msg", "self/limits", "self/attr/current", "self/oom_score_adj"} {
		text, err := os.ReadFile("/proc/" + file)
		fmt.Println(file, err)
		if file == "key-users" { // the user's own on the host are in it
			text = nil
		}
		fmt.Println(string(text))
	}
	for _, key := range []uintptr{syscall.SYS_SHMGET, syscall.SYS_SEMGET, syscall.SYS_MSGGET} {
		_, _, errno := syscall.Syscall(key, 4711, 0, 0)
		fmt.Println("ipc:", errno)
	}
	_, _, errno := syscall.Syscall6(syscall.SYS_MQ_OPEN, ptr(bytes("left")), syscall.O_RDWR, 0, 0, 0, 0)
	fmt.Println("queue:", errno)
	for _, ring := range []int{-3, -4, -5} {
		id, _, errno := syscall.Syscall6(syscall.SYS_KEYCTL, 10, uintptr(ring), ptr(bytes("user")), ptr(bytes("left")), 0, 0) // KEYCTL_SEARCH
		fmt.Println("key:", int(id) > 0 && errno == 0, errno)
	}
	unixSocket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	check(err)
	fmt.Println("abstract name:", syscall.Bind(unixSocket, &syscall.SockaddrUnix{Name: "@left"}))
	check(syscall.Close(unixSocket))
	counters := regexp.MustCompile(`(?m)^(ptype|protocols|packet|netlink|udp|raw|udplite|icmp|stat/.*|softnet_stat|dev_mcast|fib_triestat).*$`)
	for _, root := range []string{"/proc/self/net", "/proc/sys/net", "/proc/sys/kernel", "/proc/sys/fs/mqueue"} {
		// The name of /proc/self stays: the number of a process may be another one each time.
		check(filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			name := strings.TrimPrefix(p, root+"/")
			if strings.HasSuffix(root, "/net") && strings.HasPrefix(root, "/proc/self") || strings.Contains(root, "/net") && !strings.HasPrefix(root, "/proc/sys") {
				if counters.MatchString(name) {
					return nil
				}
			}
			if strings.Contains(p, "random") || strings.HasSuffix(p, "ns_last_pid") || strings.HasPrefix(p, "/proc/sys/kernel/pty/nr") {
				return nil
			}
			text, err := os.ReadFile(p)
			if err != nil {
				text = nil
			}
			if strings.HasSuffix(p, "/sockstat") { // these are of the whole machine
				text = regexp.MustCompile(`(orphan|alloc|mem) [0-9]+`).ReplaceAll(text, nil)
			}
			fmt.Println(p[len("/proc/"):], strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n  "))
			return nil
		}))
	}
}

func bytes(s string) []byte { return append([]byte(s), 0) }

func ptr(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

func check(err error) {
	if err != nil {
		panic(err)
	}
}
