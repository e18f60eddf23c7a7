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

// stored are the files that an earlier holder left with the service manager.
func stored() []*os.File {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if pid != os.Getpid() || len(names) != n {
		return nil
	}
	const first = 3 // SD_LISTEN_FDS_START
	files := make([]*os.File, n)
	for i, name := range names {
		unix.CloseOnExec(first + i)
		f := os.NewFile(uintptr(first+i), name)
		// Their names number them: the manager has an order of its own.
		k, err := strconv.Atoi(strings.TrimPrefix(name, fdName+"-"))
		if err != nil || k < 0 || k >= n || files[k] != nil {
			return nil
		}
		files[k] = f
	}
	return files
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
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	err := func() error {
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
		return unix.Sendmsg(fd, []byte(state), oob, &unix.SockaddrUnix{Name: name}, unix.MSG_NOSIGNAL)
	}()
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		// Who started this only wanted to know when it is ready.
		os.Unsetenv("NOTIFY_SOCKET")
	case err != nil:
		h.say("tell the service manager: %v", err)
	}
}
