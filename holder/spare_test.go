package holder

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What somebody who stands by makes of a holder's death depends on whether the server
// before was told to part, and on nothing that it may not have had the time for.
func TestSpare(t *testing.T) {
	for _, c := range []struct {
		what   string
		tell   func(told *os.File)
		parted bool
	}{
		{"it was not told", func(told *os.File) { told.Close() }, false},
		{"it was told", func(told *os.File) { told.Write([]byte{packetPart}); told.Close() }, true},
		{"it will be told", func(told *os.File) { t.Cleanup(func() { told.Close() }) }, true},
	} {
		cmd := exec.Command("sleep", "1000")
		fd := -1
		cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		s := newSpare(packet{files: []*os.File{file, os.NewFile(uintptr(fd), "before"), read}})
		c.tell(write)
		if got := s.parted(); got != c.parted {
			t.Errorf("%s: parted: %v", c.what, got)
		}
		var ws unix.WaitStatus
		if !c.parted {
			s.close()
			if pid, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WNOHANG, nil); pid != 0 || err != nil {
				t.Errorf("%s: it has ended: %v, %v", c.what, ws, err)
			}
			cmd.Process.Kill()
			cmd.Wait()
			continue
		}
		files := s.take()
		if pid, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WNOHANG, nil); pid == 0 || err != nil || ws.Signal() != unix.SIGKILL {
			t.Errorf("%s: taken before it has ended: %v, %v", c.what, ws, err)
		}
		s.close()
		if len(files) != 1 || files[0] != file {
			t.Errorf("%s: what is held is %v", c.what, files)
		}
		if err := file.Close(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	s := newSpare(packet{})
	if s.parted() {
		t.Error("of nothing")
	}
	s.close()
}
