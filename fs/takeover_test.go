package fs_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/fs"
	"storefs/store"
)

// serveHeld is serve with a mount that survives the process, if data is not
// empty, and the next server of one if held is not nil. It returns what there is
// to hold.
func serveHeld(t *testing.T, dir, real string, data fs.Data, held *fs.Held) (*exec.Cmd, *fs.Held) {
	t.Helper()
	cmd := exec.Command(testBinary(t), "-client", "serve", dir, real)
	if data != "" {
		cmd.Args = append(cmd.Args, string(data))
	}
	if held != nil {
		cmd.Args = append(cmd.Args, "held")
		cmd.ExtraFiles = []*os.File{held.Device, held.Journal}
	}
	cmd.Dir = "/"
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) == 0 || words[0] != "ready" {
		t.Fatalf("server: %q, %v", line, err)
	}
	if len(words) < 3 {
		if data != "" {
			missing(t, "mounts do not survive their servers here: Linux 6.9 is needed")
		}
		return cmd, nil
	}
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	var files [2]*os.File
	for i, word := range words[1:3] {
		var n int
		fmt.Sscan(word, &n)
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			missing(t, "the files of another process are out of reach: "+err.Error())
		}
		files[i] = os.NewFile(uintptr(fd), "held")
	}
	h := &fs.Held{Device: files[0], Journal: files[1]}
	t.Cleanup(h.Close)
	return cmd, h
}

// takeOver makes this process the server of what is held.
func takeOver(t *testing.T, dir string, s *fakeStore, data fs.Data, held *fs.Held) *fs.Server {
	t.Helper()
	server, err := fs.Mount(fs.Options{
		Mountpoint: dir, Real: s.real, Store: s, Realiser: s, Control: s, Data: data, Survive: true, Held: held,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// occupant is a process that has the mount open in every way, and says what it sees
// each time that it is asked.
const occupant = `
import mmap, os, sys
S, quick, never = sys.argv[1:4]
os.chdir(S + "/" + quick + "/share")
f = open("doc", "rb"); prog = open("../bin/hello", "rb"); d = os.open("../bin", os.O_RDONLY); p = os.open("..", os.O_PATH)
status = open(S + "/.storefs/status", "rb")
m = mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
for line in sys.stdin:
    for known in f, status: os.posix_fadvise(known.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    f.seek(0); prog.seek(0)
    print(os.getcwd(), os.fstat(f.fileno()).st_ino, os.stat("doc").st_ino, os.stat(".").st_ino, os.stat(S).st_ino,
        os.fstat(p).st_ino, os.readlink("../link"), f.read(), m[:], prog.read()[-6:], sorted(os.listdir(d)), sorted(os.listdir("..")),
        os.path.exists("nothing"), sorted(os.listdir(S)), len(status.read()) > 0, flush=True)
    status.seek(0)
`

// A mount whose server dies, or leaves it, is the same under the next one: who
// waits goes on waiting, and what is open stays open.
func TestTakeOver(t *testing.T) {
	needFuse(t)
	python := needTool(t, "python3")
	eachData(t, func(t *testing.T, data fs.Data) {
		s := newFakeStore(t)
		dir := mountDir(t)
		server, held := serveHeld(t, dir, s.real, data, nil)
		must(t, dir, `cat $S/$1/share/doc`, "doc", name(1, "quick"))

		ask := exec.Command(python, "-c", occupant, dir, name(1, "quick"), name(2, "never"))
		ask.Dir = "/"
		questions, err := ask.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := ask.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		ask.Stderr = &errs
		if err := ask.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { ask.Process.Kill(); ask.Wait() }()
		answers := bufio.NewReader(out)
		answer := func() string {
			t.Helper()
			fmt.Fprintln(questions)
			line, err := answers.ReadString('\n')
			if err != nil {
				ask.Wait()
				t.Fatalf("%q, %v\n%s", line, err, errs.Bytes())
			}
			return line
		}
		first := answer()
		if !strings.Contains(first, " b'doc\\n' b'doc\\n' b'hello\\n' ['hello'] ['bin', 'link', 'share'] False ["+"'"+name(1, "quick")+"'] True") {
			t.Fatal(first)
		}

		var waiters sync.WaitGroup
		wait := func() {
			for _, c := range []string{`cat $S/$1/share/doc`, `cat $S/$2/share/doc`, `cat $S/$3`, `stat -L -c doc $S/$1`, `cd $S/$2 && cat share/doc`, `tail -n 1 $S/$3`} {
				waiters.Go(func() { must(t, dir, c, "doc", name(2, "never"), name(3, "never"), name(4, "never")) })
			}
			time.Sleep(100 * time.Millisecond)
		}
		wait()
		for i := range 3 {
			if i%2 == 0 {
				server.Process.Kill()
			} else {
				server.Process.Signal(unix.SIGTERM)
			}
			server.Wait()
			// Whoever comes now waits for the next server.
			waiters.Go(func() { must(t, dir, `cat $S/$1/share/doc $S/$1/bin/hello | head -n 1`, "doc", name(1, "quick")) })
			server, _ = serveHeld(t, dir, s.real, data, held)
			if got := answer(); got != first {
				t.Errorf("it was\n%s\nand is\n%s", first, got)
			}
			wait()
		}
		server.Process.Kill()
		server.Wait()

		if err := s.refresh(); err != nil {
			t.Fatal(err)
		}
		never := []string{
			s.add(name(2, "never"), recipe{make: tree}),
			s.add(name(3, "never"), recipe{make: tree, promised: store.KindDirectory}),
			s.add(name(4, "never"), recipe{make: regular("doc\n"), promised: store.KindRegular}),
		}
		last := takeOver(t, dir, s, data, held)
		waiters.Wait()
		for _, n := range never {
			if s.built(n) != 1 {
				t.Errorf("%s was built %d times", n, s.built(n))
			}
		}
		if last.Data() != data {
			t.Error(last.Data())
		}
		s.mu.Lock()
		for _, n := range never {
			delete(s.valid, n) // as it was
		}
		s.mu.Unlock()
		last.Changed()
		<-last.Told()
		if got := answer(); got != first {
			t.Errorf("it was\n%s\nand is\n%s", first, got)
		}
		questions.Close()
		if err := ask.Wait(); err != nil {
			t.Error(err)
		}
		if err := last.Unmount(t.Context()); err != nil || mounted(dir) {
			t.Errorf("%v, mounted: %v", err, mounted(dir))
		}
	})
}

// What was deleted while nobody served is looked up again.
func TestTakeOverAfterDeletion(t *testing.T) {
	needFuse(t)
	for _, data := range []fs.Data{fs.DataNoOpen, fs.DataCached} {
		s := newFakeStore(t)
		dir := mountDir(t)
		server, held := serveHeld(t, dir, s.real, data, nil)
		n := s.add(name(1, "quick"), recipe{make: tree})
		must(t, dir, `cat $S/$1/share/doc; cat $S/$1/link`, "doc\ndoc", n)
		server.Process.Kill()
		server.Wait()
		s.delete(t, n)
		// What was valid once is remembered to be a directory.
		s.add(n, recipe{promised: store.KindDirectory, make: func(p string) error {
			return errors.Join(tree(p), os.WriteFile(filepath.Join(p, "share", "doc"), []byte("new\n"), 0o644))
		}})
		last := takeOver(t, dir, s, data, held)
		must(t, dir, `cat $S/$1/share/doc; cat $S/$1/link`, "new\nnew", n)
		if s.built(n) != 1 {
			t.Errorf("%d builds", s.built(n))
		}
		if err := last.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// What was being replaced when a server died was replaced, maybe, and nobody has told the
// kernel, which knows sizes and contents of the one before.
func TestTakeOverWhileReplaced(t *testing.T) {
	needFuse(t)
	n := name(1, "quick")
	for _, c := range []struct {
		name           string
		known, looked  bool // looked up before it is to be replaced, or then
		signal         unix.Signal
		replaced, want string
	}{
		{"looked up before", true, false, unix.SIGUSR1, "another", "another"},
		{"looked up meanwhile", false, true, unix.SIGUSR1, "another", "another"},
		{"not replaced after all", true, false, unix.SIGUSR2, "dog", "doc"}, // so the kernel is right
		{"not replaced, and looked up then", false, true, unix.SIGUSR2, "dog", "doc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFakeStore(t)
			dir := mountDir(t)
			server, held := serveHeld(t, dir, s.real, fs.DataNoOpen, nil)
			look := func(want string) {
				t.Helper()
				must(t, dir, `cat $S/$1/share/doc`, want, n)
			}
			if c.known {
				look("doc")
			}
			server.Process.Signal(c.signal)
			until(t, "the server has heard", func() bool { _, err := os.Stat(s.real + ".replacing"); return err == nil })
			if c.looked {
				look("doc")
			}
			server.Process.Kill()
			server.Wait()
			makeWritable(s.real)
			if err := os.RemoveAll(filepath.Join(s.real, n)); err != nil {
				t.Fatal(err)
			}
			if err := s.put(n, func(p string) error {
				return errors.Join(tree(p), os.WriteFile(filepath.Join(p, "share", "doc"), []byte(c.replaced+"\n"), 0o644))
			}); err != nil {
				t.Fatal(err)
			}
			last := takeOver(t, dir, s, fs.DataNoOpen, held)
			look(c.want)
			if err := last.Unmount(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that cannot take over leaves the mount to one that can.
func TestTakeOverRefused(t *testing.T) {
	needFuse(t)
	s := newFakeStore(t)
	dir := mountDir(t)
	server, held := serveHeld(t, dir, s.real, fs.DataNoOpen, nil)
	server.Process.Kill()
	server.Wait()
	damaged, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer damaged.Close()
	if err := damaged.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	_, err = fs.Mount(fs.Options{
		Mountpoint: dir, Real: s.real, Store: s, Realiser: s, Survive: true,
		Held: &fs.Held{Device: held.Device, Journal: damaged},
	})
	if want := "mount " + dir + ": take the mount over: what is held: it is another version's, or damaged"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	// Nor can what was agreed upon with the kernel be changed.
	same := &fs.Held{Device: duplicate(t, held.Device), Journal: duplicate(t, held.Journal)}
	_, err = fs.Mount(fs.Options{Mountpoint: dir, Real: s.real, Store: s, Realiser: s, Survive: true, Held: same, Data: fs.DataPassthrough})
	if err == nil || !strings.Contains(err.Error(), "passthrough needs Linux 6.9") {
		t.Errorf("%v", err)
	}
	if err := s.put(name(9, "x"), tree); err != nil {
		t.Fatal(err)
	}
	last := takeOver(t, dir, s, fs.DataNoOpen, held)
	must(t, dir, `cat $S/$1/share/doc`, "doc", name(9, "x"))
	if err := last.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}

func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// A mount that nobody is to serve any more ends; another one at its place is
// left alone.
func TestDetach(t *testing.T) {
	needFuse(t)
	s := newFakeStore(t)
	dir := mountDir(t)
	server, held := serveHeld(t, dir, s.real, fs.DataNoOpen, nil)
	_, wait := spawn(t, dir, `cat $S/$1/share/doc`, name(2, "never"))
	time.Sleep(100 * time.Millisecond)
	server.Process.Kill()
	server.Wait()
	if !held.Alive() {
		t.Error("the mount has gone with its server")
	}
	if err := held.Detach(); err != nil || mounted(dir) {
		t.Errorf("%v, mounted: %v", err, mounted(dir))
	}
	held.Close()
	if err := wait(); err == nil {
		t.Error("a waiter succeeded")
	}
	if uid() != 0 {
		return // by fusermount3 it is the same, and there is no mount of others
	}
	server, held = serveHeld(t, dir, s.real, fs.DataNoOpen, nil)
	server.Process.Kill()
	server.Wait()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if held.Alive() {
		t.Error("the mount is there after its end")
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := held.Detach(); err != nil || !mounted(dir) {
		t.Errorf("%v, mounted: %v", err, mounted(dir))
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	serve(t, dir, s.real)
	if err := held.Detach(); err != nil || !mounted(dir) {
		t.Errorf("another server's: %v, mounted: %v", err, mounted(dir))
	}
}
