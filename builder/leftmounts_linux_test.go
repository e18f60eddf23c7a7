package builder

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// newInstance mounts a file system where nobody sees it. options are pairs.
func newInstance(t *testing.T, fstype string, options ...string) (fd int) {
	t.Helper()
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	for i := 0; i < len(options) && err == nil; i += 2 {
		err = unix.FsconfigSetString(fs, options[i], options[i+1])
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err == nil {
		fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatalf("mount %s: %v", fstype, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// A terminal that is left is seen, when no time tells of it, and to look for one
// changes nothing.
func TestTerminalIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	pts, shm := newInstance(t, "devpts", "ptmxmode", "0666", "mode", "0620"), newInstance(t, "tmpfs", "mode", "1777")
	var fds []int
	for i, name := range []string{".", "ptmx", "."} {
		fd, err := unix.Openat([]int{pts, pts, shm}[i], name, int(leftPlaces()[i].how)|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	l, err := newLeftMounts(fds)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	open := func() int {
		t.Helper()
		fd, err := unix.Openat(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for range 3 {
		if !l.untouched() {
			t.Fatal("it is not as it was when nobody has touched it")
		}
	}
	first, second := open(), open()
	if l.untouched() {
		t.Error("it is as it was, with two terminals")
	}
	unix.Close(first)
	if l.untouched() {
		t.Error("it is as it was, with the second of two terminals")
	}
	unix.Close(second)
}
