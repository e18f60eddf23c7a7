package fstest

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

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

// The service manager is told that the mount is ready, and then, when it changes, what it
// does, by its main process: of no other it would hear that.
func TestServiceTellsWhatItDoes(t *testing.T) {
	for _, args := range [][]string{nil, {"--no-survive"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			l := newLab(t)
			l.messages()
			manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: l.Dir + "/notify", Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer manager.Close()
			raw, err := manager.SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) {
					if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
						t.Fatal(err)
					}
				})
			}
			if err != nil {
				t.Fatal(err)
			}
			var heard []string
			// hears takes messages until one of them is line.
			hears := func(line string) {
				t.Helper()
				if err := manager.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				b, oob := make([]byte, 4096), make([]byte, 256)
				for {
					n, oobn, _, _, err := manager.ReadMsgUnix(b, oob)
					if err != nil {
						t.Fatalf("no %q: %v; heard %q", line, err, heard)
					}
					heard = append(heard, string(b[:n]))
					messages, err := unix.ParseSocketControlMessage(oob[:oobn])
					if err != nil || len(messages) == 0 {
						t.Fatalf("%d control messages: %v", len(messages), err)
					}
					for i := range messages[1:] { // files of the mount, which would outlive it here
						fds, _ := unix.ParseUnixRights(&messages[1+i])
						for _, fd := range fds {
							unix.Close(fd)
						}
					}
					sender, err := unix.ParseUnixCredentials(&messages[0])
					if err != nil || int(sender.Pid) != l.mount.Process.Pid {
						t.Errorf("%q is told by %+v, and the main process is %d: %v", b[:n], sender, l.mount.Process.Pid, err)
					}
					if string(b[:n]) == line {
						return
					}
				}
			}
			body, release := l.held("gate", "mkdir $out")
			gate := l.outputs(l.star("a.star", body) + ":gate")[0]
			l.env = append(l.env, "NOTIFY_SOCKET="+l.Dir+"/notify")
			l.serve(append(args, l.gates())...)
			serving := "STATUS=Serving " + l.Store + ", "
			hears("READY=1")
			if strings.Contains(strings.Join(heard, " "), "STATUS=") {
				t.Errorf("it is not ready yet, and says what it does: %q", heard)
			}
			hears(serving + "nothing is being built")
			_, done := l.touch("ls", gate)
			hears(serving + "1 build is running")
			if args == nil {
				l.killServer()
				hears(serving + "1 build is running") // by the next one, who begins it anew
			}
			release()
			done()
			hears(serving + "nothing is being built")
			ended := make(chan struct{})
			go func() { defer close(ended); l.ok("umount") }()
			hears("STATUS=") // what has ended does nothing
			hears("STOPPING=1")
			<-ended
			if err := l.mount.Wait(); err != nil {
				t.Error(err)
			}
			l.mount = nil
		})
	}
}
