package holder_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/holder"
)

// The test binary is a holder and a server, too.
func TestMain(m *testing.M) {
	if os.Args[0] == holder.Name {
		dir := os.Args[1]
		var upgradeTime time.Duration
		if _, err := os.Stat(filepath.Join(dir, "impatient")); err == nil {
			upgradeTime = 200 * time.Millisecond
		}
		os.Exit(holder.Run(holder.Options{
			Args: []string{"server", dir},

			UpgradeTime: upgradeTime,
			Alive:       func(files []*os.File) bool { return content(files) == "mount" },
			Detach: func(files []*os.File) error {
				note(dir, "detached %q", content(files))
				return nil
			},
		}))
	}
	if os.Args[0] == "server" {
		os.Exit(serve(os.Args[1]))
	}
	os.Exit(m.Run())
}

// note adds a line to what has happened.
func note(dir, format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintf(f, format+"\n", args...)
		f.Close()
	}
}

// content is what is held: the text of the second file.
func content(files []*os.File) string {
	if len(files) != 2 {
		return fmt.Sprintf("%d files", len(files))
	}
	b, err := io.ReadAll(io.NewSectionReader(files[1], 0, 100))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// serve is a server's life. What it does is in the names of files: PROGRAM-early
// makes it die before it has said anything, -taken as soon as it could begin, -late
// soon after it is ready; -slow wait before it says anything, -hangs for ever, -pauses
// before it has a mount; -vanishes remove its program, -stubborn keep the mount,
// -lingers take its time to end, -hasty call upgrades off soon, -alone give the holder
// nothing, and -ancient know the packets of the first version only.
func serve(dir string) int {
	exe, err := os.Executable()
	if err != nil {
		return 9
	}
	program := filepath.Base(exe)
	does := func(what string) bool {
		_, err := os.Stat(filepath.Join(dir, program+"-"+what))
		return err == nil
	}
	if does("early") {
		return 7
	}
	if does("vanishes") {
		os.Remove(exe)
	}
	if does("slow") {
		time.Sleep(300 * time.Millisecond)
	}
	if does("hangs") {
		time.Sleep(time.Hour)
	}
	say := func(line string) { fmt.Fprintln(os.Stderr, line) }
	if does("ancient") {
		return serveAncient(dir, program)
	}
	link, err := holder.Connect(os.Args, say)
	if err != nil || link == nil {
		say(fmt.Sprint("no link: ", err))
		return 9
	}
	ended, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer end()
	upgrade := make(chan os.Signal, 1)
	signal.Notify(upgrade, syscall.SIGUSR2)
	files, err := link.Take(ended)
	if err != nil {
		say(err.Error())
		return 8
	}
	defer link.Close()
	if does("taken") {
		return 7
	}
	if len(files) == 0 {
		note(dir, "%s %d begins", program, os.Getpid())
		if does("pauses") {
			time.Sleep(300 * time.Millisecond)
		}
		for _, text := range []string{"", "mount"} {
			fd, err := unix.MemfdCreate("held", unix.MFD_CLOEXEC)
			if err != nil {
				return 9
			}
			f := os.NewFile(uintptr(fd), "held")
			f.WriteString(text)
			files = append(files, f)
		}
	} else {
		note(dir, "%s %d takes %q", program, os.Getpid(), content(files))
	}
	if does("alone") {
		files = nil
	}
	if err := errors.Join(link.Hold(files), link.Ready()); err != nil {
		say(err.Error())
		return 9
	}
	if does("late") {
		return 7
	}
	note(dir, "process %d lives", os.Getpid())
	for {
		select {
		case <-ended.Done():
			if err := link.Ending(); err != nil {
				say(err.Error())
			}
			return 5
		case <-link.Parted():
			note(dir, "%s %d is told to part", program, os.Getpid())
			switch {
			case does("stubborn"):
				select {}
			case does("lingers"): // it has much memory to give back
				link.Close()
				note(dir, "has closed its link")
				time.Sleep(200 * time.Millisecond)
			}
			return 0
		case <-upgrade:
			b, err := os.ReadFile(filepath.Join(dir, "program"))
			if err != nil {
				return 9
			}
			ctx, cancel := context.WithCancel(ended)
			if does("hasty") {
				time.AfterFunc(200*time.Millisecond, cancel)
			}
			// Who parts ends: so not before the answer.
			if err := link.Upgrade(ctx, string(b)); err != nil {
				note(dir, "refused: %v", err)
			}
			cancel()
		}
	}
}

// serveAncient knows the packets of the first version only.
func serveAncient(dir, program string) int {
	fd, err := strconv.Atoi(os.Getenv("STOREFS_LINK"))
	if err != nil {
		return 9
	}
	if _, err := unix.Write(fd, []byte("s")); err != nil {
		return 9
	}
	b, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || string(b[:n]) != "t" {
		note(dir, "%s hears %q, %v", program, b[:n], err)
		return 8
	}
	var files []*os.File
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 {
		fds, _ := unix.ParseUnixRights(&msgs[0])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "held"))
		}
	}
	note(dir, "%s %d takes %q", program, os.Getpid(), content(files))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	if _, err := unix.Write(fd, []byte("r")); err != nil {
		return 9
	}
	<-ended
	unix.Write(fd, []byte("e"))
	return 5
}

// mount is a directory with what becomes of a holder and its servers.
type mount struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	end chan error
}

const program = "old"

func newMount(t *testing.T) *mount {
	t.Helper()
	dir := t.TempDir()
	m := &mount{t: t, dir: dir}
	m.install(program)
	t.Cleanup(func() {
		for range 3 { // one may start another meanwhile
			for _, pid := range append(m.pids("server"), m.pids(holder.Name)...) {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if t.Failed() {
			t.Logf("notes:\n%s\nsaid:\n%s", strings.Join(m.notes(), "\n"), m.log())
		}
	})
	return m
}

// install makes the test binary a program of its own.
func (m *mount) install(name string) string {
	m.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	to := filepath.Join(m.dir, name)
	if os.Link(exe, to) == nil {
		return to
	}
	b, err := os.ReadFile(exe)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return to
}

// set makes a program do something.
func (m *mount) set(what string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, what), nil, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// start starts a holder.
func (m *mount) start(env ...string) {
	m.t.Helper()
	m.cmd = exec.Command(filepath.Join(m.dir, program), m.dir)
	m.run(env)
}

func (m *mount) run(env []string) {
	m.t.Helper()
	m.cmd.Args[0] = holder.Name
	m.cmd.Env = append(os.Environ(), env...)
	if m.cmd.Stderr == nil {
		log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			m.t.Fatal(err)
		}
		defer log.Close()
		m.cmd.Stdout, m.cmd.Stderr = log, log
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.end = make(chan error, 1)
	go func() { m.end <- m.cmd.Wait() }()
}

func (m *mount) log() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	return string(b)
}

func (m *mount) notes() []string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "notes"))
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// noted waits until it was noted n times what contains text, and returns the
// last of those lines.
func (m *mount) noted(n int, text string) string {
	m.t.Helper()
	var found []string
	m.until(fmt.Sprintf("%d × %q", n, text), func() bool {
		found = slices.DeleteFunc(m.notes(), func(l string) bool { return !strings.Contains(l, text) })
		return len(found) >= n
	})
	if len(found) > n {
		m.t.Fatalf("%q was noted %d times, not %d", text, len(found), n)
	}
	return found[n-1]
}

// says waits until the processes have said text.
func (m *mount) says(text string) {
	m.t.Helper()
	m.until("said: "+text, func() bool { return strings.Contains(m.log(), text) })
}

func (m *mount) until(what string, f func() bool) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("never: %s", what)
		}
	}
}

// pids are the processes called name.
func (m *mount) pids(name string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		b, _ := os.ReadFile(dir + "/cmdline")
		if string(b) == name+"\x00"+m.dir+"\x00" {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// one is the only process called name.
func (m *mount) one(name string) (pid int) {
	m.t.Helper()
	m.until("one "+name, func() bool {
		pids := m.pids(name)
		if len(pids) == 1 {
			pid = pids[0]
		}
		return len(pids) == 1
	})
	return pid
}

// listening is the holder, once it hears signals: a program that has only just begun
// dies of them. It takes its name when it hears them.
func (m *mount) listening() int {
	m.t.Helper()
	pid := m.one(holder.Name)
	m.until("the holder has its name", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return string(b) == holder.Name+"\n"
	})
	return pid
}

// kill kills processes at one moment, and waits until they are no more.
func (m *mount) kill(pids ...int) {
	m.t.Helper()
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGSTOP)
	}
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
	for _, pid := range pids {
		m.until("it is dead", func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return err != nil || len(b) == 0
		})
	}
}

// ends waits for the end of everything, and checks the holder's exit status.
func (m *mount) ends(status int) {
	m.t.Helper()
	select {
	case <-m.end:
	case <-time.After(time.Minute):
		m.t.Fatal("the holder does not end")
	}
	if got := m.cmd.ProcessState.ExitCode(); got != status {
		m.t.Errorf("exit status %d, want %d", got, status)
	}
	m.gone()
}

func (m *mount) gone() {
	m.t.Helper()
	m.until("nothing is left", func() bool { return len(m.pids("server"))+len(m.pids(holder.Name)) == 0 })
}

// exe is the name of the program that a process runs.
func exe(pid int) string {
	p, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return filepath.Base(p)
}
