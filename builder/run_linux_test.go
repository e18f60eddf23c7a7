package builder

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestIsNoExec(t *testing.T) {
	for dir, flags := range map[string]uintptr{t.TempDir(): unix.MS_NOEXEC, t.TempDir(): 0} {
		if err := unix.Mount("none", dir, "tmpfs", flags, ""); err != nil {
			t.Skip("needs root: ", err)
		}
		got := isNoExec(dir)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if got != (flags != 0) {
			t.Errorf("with flags %#x: %t", flags, got)
		}
	}
	if isNoExec("/absent") {
		t.Error("what is not there")
	}
}
