package holder

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fdName is what the service manager knows the files by. It keeps them while
// the whole service is dead, if its unit has FileDescriptorStoreMax=.
const fdName = "storefs-mount"

// stored takes the files that an earlier holder left with the service manager,
// if the mount is still there. Otherwise they go back: the manager drops by
// itself only those that it sees an error of.
func (h *holder) stored() {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if pid != os.Getpid() || len(names) != n {
		return
	}
	const first = 3 // SD_LISTEN_FDS_START
	all, ordered := make([]*os.File, n), make([]*os.File, n)
	complete := true
	for i, name := range names {
		unix.CloseOnExec(first + i)
		all[i] = os.NewFile(uintptr(first+i), name)
		// Their names number them: the manager has an order of its own.
		k, err := strconv.Atoi(strings.TrimPrefix(name, fdName+"-"))
		if err != nil || k < 0 || k >= n || ordered[k] != nil {
			complete = false
			continue
		}
		ordered[k] = all[i]
	}
	if complete && h.Alive(ordered) {
		h.files = ordered
		return
	}
	for _, name := range names {
		if strings.HasPrefix(name, fdName+"-") {
			h.tell("FDSTOREREMOVE=1\nFDNAME=" + name)
		}
	}
	closeAll(all)
}

// store leaves the files with the service manager too, if there is one that
// wants them.
func (h *holder) store() {
	for i, f := range h.files {
		h.tell(fmt.Sprintf("FDSTORE=1\nFDNAME=%s-%d", fdName, i), f)
	}
}

// unstore takes them back.
func (h *holder) unstore() {
	for i := range h.files {
		h.tell(fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=%s-%d", fdName, i))
	}
}

// tell notifies with descriptors.
func (h *holder) tell(state string, files ...*os.File) {
	switch err := notify(state, 0, files...); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		// Who started this only wanted to know when it is ready.
		os.Unsetenv("NOTIFY_SOCKET")
	case err != nil:
		h.say("tell the service manager: %v", err)
	}
}

// TellStatus tells the service manager, if there is one, what the service does now: a line,
// which `systemctl status` shows; "" takes the last one back. It is told by its main
// process, and heard of no other. A manager that does not listen misses it.
func TellStatus(line string) {
	_ = notify("STATUS="+strings.ReplaceAll(line, "\n", " "), unix.MSG_DONTWAIT)
}

func notify(state string, flags int, files ...*os.File) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	// An abstract name begins with "@" in both places.
	return unix.Sendmsg(fd, []byte(state), oob, &unix.SockaddrUnix{Name: name}, unix.MSG_NOSIGNAL|flags)
}
