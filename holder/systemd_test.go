package holder_test

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/holder"
)

// manager is a service manager's end: the socket that it hears of its services
// by, and what they leave with it.
type manager struct {
	t      *testing.T
	conn   *net.UnixConn
	stored map[string]*os.File
	heard  []string
}

func newManager(t *testing.T, m *mount) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(m.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t: t, conn: conn, stored: map[string]*os.File{}}
}

// until takes messages until one of them is line.
func (s *manager) until(line string) {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(time.Minute))
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(64))
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(b, oob)
		if err != nil {
			s.t.Fatalf("no %s: %v; heard %q", line, err, s.heard)
		}
		text := string(b[:n])
		s.heard = append(s.heard, text)
		state, name, _ := strings.Cut(text, "\nFDNAME=")
		switch state {
		case "FDSTORE=1":
			msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(msgs) != 1 {
				s.t.Fatalf("%q came with %d messages: %v", text, len(msgs), err)
			}
			fds, err := unix.ParseUnixRights(&msgs[0])
			if err != nil || len(fds) != 1 {
				s.t.Fatalf("%q came with %d descriptors: %v", text, len(fds), err)
			}
			s.stored[name] = os.NewFile(uintptr(fds[0]), name)
		case "FDSTOREREMOVE=1":
			s.stored[name].Close()
			delete(s.stored, name)
		}
		if state == line {
			return
		}
	}
}

// restart starts the service with what is stored, in an order that the manager
// chooses: the last one first.
func (m *mount) restart(s *manager) {
	m.t.Helper()
	var names []string
	m.cmd = exec.Command("bash")
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(s.stored))) {
		names = append(names, name)
		m.cmd.ExtraFiles = append(m.cmd.ExtraFiles, s.stored[name])
	}
	m.cmd.Args = []string{"", "-c", `LISTEN_PID=$$ exec -a ` + holder.Name + ` "$0" "$1"`, filepath.Join(m.dir, program), m.dir}
	m.run([]string{"NOTIFY_SOCKET=" + filepath.Join(m.dir, "notify"), fmt.Sprint("LISTEN_FDS=", len(names)), "LISTEN_FDNAMES=" + strings.Join(names, ":")})
}

// The service manager keeps the mount while the whole service is dead.
func TestServiceManagerKeepsTheMount(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	s := newManager(t, m)
	m.start("NOTIFY_SOCKET=" + filepath.Join(m.dir, "notify"))
	s.until("READY=1")
	if len(s.stored) != 2 {
		t.Fatalf("%d files are stored", len(s.stored))
	}
	for i := range 4 {
		m.kill(m.one("server"), m.one(holder.Name))
		m.ends(-1)
		m.restart(s)
		s.until("READY=1")
		m.noted(i+1, `takes "mount"`)
	}
	unix.Kill(m.cmd.Process.Pid, unix.SIGTERM)
	s.until("STOPPING=1")
	m.ends(5)
	if len(s.stored) != 0 {
		t.Errorf("%d files are stored after the end", len(s.stored))
	}
	// Only the holder talks to the manager, and says each thing once.
	ready := 0
	for _, h := range s.heard {
		if h == "READY=1" {
			ready++
		}
	}
	if ready != 5 {
		t.Errorf("%q", s.heard)
	}
}

// What the manager kept of a mount that has ended meanwhile, or a part of it
// only, is given back.
func TestServiceManagerKeptTooLong(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(s *manager){
		"ended": func(s *manager) {
			for _, f := range s.stored {
				f.Truncate(0)
			}
		},
		"a part": func(s *manager) {
			s.stored["storefs-mount-0"].Close()
			delete(s.stored, "storefs-mount-0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			s := newManager(t, m)
			m.start("NOTIFY_SOCKET=" + filepath.Join(m.dir, "notify"))
			s.until("READY=1")
			m.kill(m.one("server"), m.one(holder.Name))
			m.ends(-1)
			spoil(s)
			m.restart(s)
			for range len(s.stored) {
				s.until("FDSTOREREMOVE=1")
			}
			s.until("READY=1")
			m.noted(2, "begins")
			if len(s.stored) != 2 {
				t.Errorf("%d files are stored", len(s.stored))
			}
			unix.Kill(m.cmd.Process.Pid, unix.SIGTERM)
			s.until("STOPPING=1")
			m.ends(5)
		})
	}
}
