package fstest

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A service that is given mounts of its own, by an option of its unit that seems to have
// nothing to do with them, says that nobody else sees the store.
func TestServiceWithMountsOfItsOwn(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test makes a mount namespace, which needs root")
	}
	const told = "nobody else sees the store"
	l := newLab(t)
	l.env = append(l.env, "NOTIFY_SOCKET="+l.Dir+"/nobody")
	l.serve()
	l.stop()
	if log, _ := os.ReadFile(l.Dir + "/mount.log"); strings.Contains(string(log), told) {
		t.Errorf("everybody sees it, and the log has\n%s", log)
	}
	log, err := os.Create(l.Dir + "/own.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := l.command("mount")
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the mount", func() bool { return strings.Contains(strings.Join(l.ok("status"), "\n"), "mounted at") })
	if text, _ := os.ReadFile(log.Name()); !strings.Contains(string(text), told) || l.mounted() {
		t.Errorf("mounted here: %t; the log has\n%s", l.mounted(), text)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
