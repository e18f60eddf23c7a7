package state

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// Root whose rights were taken away, as in a container, is to directories what an
// ordinary user is.
func TestRenameWithoutRights(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"from", "to"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	from, to := filepath.Join(dir, "from/a"), filepath.Join(dir, "to/a")
	if err := os.Mkdir(from, 0o555); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // rights are a thread's
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		t.Fatal(err)
	}
	some := all
	some[0].Effective = 0
	if err := unix.Capset(&header, &some[0]); err != nil {
		t.Fatal(err)
	}
	err := rename(from, to, store.KindDirectory)
	if e := unix.Capset(&header, &all[0]); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o555 {
		t.Errorf("%v %v", st, err)
	}
}
