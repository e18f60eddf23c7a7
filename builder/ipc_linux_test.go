package builder

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever is made in a namespace shows, also when it was removed, and also to who is in
// another one. Nothing else does.
func TestIPC(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a namespace")
	}
	if _, err := os.Stat("/proc/sys/kernel/shm_next_id"); err != nil {
		t.Skip("needs a kernel that tells which number the next object has: ", err)
	}
	const name = "made\x00"
	queue := func(number uintptr, args ...uintptr) error {
		b := []byte(name)
		if _, _, errno := unix.Syscall6(number, address(b), args[0], args[1], 0, 0, 0); errno != 0 {
			return errno
		}
		return nil
	}
	object := func(number, a, b, c uintptr) (uintptr, error) {
		id, _, errno := unix.Syscall(number, a, b, c)
		if errno != 0 {
			return 0, errno
		}
		return id, nil
	}
	remove := func(control, id uintptr) error { _, err := object(control, id, unix.IPC_RMID, 0); return err }
	for _, c := range []struct {
		what    string
		do      func() error
		touched bool
	}{
		{"nothing", func() error { return nil }, false},
		{"memory", func() error { _, err := object(unix.SYS_SHMGET, 0, 1, 0o1600); return err }, true},
		{"memory, removed", func() error {
			id, err := object(unix.SYS_SHMGET, 0, 1, 0o1600)
			if err != nil {
				return err
			}
			return remove(unix.SYS_SHMCTL, id)
		}, true},
		{"semaphores", func() error { _, err := object(unix.SYS_SEMGET, 0, 1, 0o1600); return err }, true},
		{"messages, removed", func() error {
			id, err := object(unix.SYS_MSGGET, 0, 0o1600, 0)
			if err != nil {
				return err
			}
			return remove(unix.SYS_MSGCTL, id)
		}, true},
		{"a queue", func() error { return queue(unix.SYS_MQ_OPEN, unix.O_CREAT|unix.O_RDWR, 0o600) }, true},
		{"a queue, removed", func() error {
			if err := queue(unix.SYS_MQ_OPEN, unix.O_CREAT|unix.O_RDWR, 0o600); err != nil {
				return err
			}
			return queue(unix.SYS_MQ_UNLINK, 0, 0)
		}, true},
		{"no such queue", func() error {
			if err := queue(unix.SYS_MQ_OPEN, unix.O_RDWR, 0); err != unix.ENOENT {
				t.Errorf("open what is not there: %v", err)
			}
			return nil
		}, false},
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // it ends with the goroutine
			if !tellsIPC() {
				t.Error("the kernel, of Linux 5.19 or later, does not tell")
				return
			}
			i, err := freshIPC()
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
				return
			}
			defer i.close()
			if err := c.do(); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
				t.Error(err)
			}
			if i.untouched() == c.touched {
				t.Errorf("%s: untouched is %v", c.what, !c.touched)
			}
		}()
		<-done
	}
}
