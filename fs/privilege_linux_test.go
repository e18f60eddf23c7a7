package fs

import (
	"os"
	"os/exec"
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

// What keeps fusermount3 from becoming root, or root from mounting, is named.
func TestFusermountMayNotMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for what, c := range map[string]struct {
		option, arg uintptr
		want        string
	}{
		"no_new_privs": {unix.PR_SET_NO_NEW_PRIVS, 1, "no_new_privs"},
		"bounding set": {unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, "--cap-add=SYS_ADMIN"},
	} {
		dir, why := t.TempDir(), make(chan string)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this, as it has no way back
			if err := unix.Prctl(int(c.option), c.arg, 0, 0, 0); err != nil {
				why <- err.Error()
				return
			}
			_, err := exec.LookPath("fusermount3")
			if _, e := os.Stat("/dev/fuse"); err != nil || e != nil || c.option == unix.PR_SET_NO_NEW_PRIVS { // which does not keep root from it
				why <- mayNotMount("mount failed: Operation not permitted")
				return
			}
			file, err := mountByFusermount(dir, false)
			if err == nil {
				file.Close()
				unix.Unmount(dir, unix.MNT_DETACH)
				why <- "it is mounted"
				return
			}
			why <- err.Error()
		}()
		if got := <-why; !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", what, got)
		}
	}
	if got := mayNotMount("mount failed: Operation not permitted"); got != "" {
		t.Errorf("nothing forbids it: %s", got)
	}
}
