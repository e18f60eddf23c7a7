package fs

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Root of a container that may not mount is told so, and nothing of fusermount3.
func TestRootMayNotMount(t *testing.T) {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, and FUSE")
	} else {
		f.Close()
	}
	runtime.LockOSThread() // rights are a thread's
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		t.Fatal(err)
	}
	some := all
	some[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	if err := unix.Capset(&header, &some[0]); err != nil {
		t.Fatal(err)
	}
	_, err := checkPrivilege(true)
	if e := unix.Capset(&header, &all[0]); e != nil {
		t.Fatal(e)
	}
	if err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("error %v", err)
	}
}
