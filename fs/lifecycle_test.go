package fs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"storefs/fs"
)

func TestMountpointIsRefused(t *testing.T) {
	needFuse(t)
	s := newFakeStore(t)
	state := filepath.Dir(s.real)
	tmp := t.TempDir()
	file, full, link, empty := filepath.Join(tmp, "file"), filepath.Join(tmp, "full"), filepath.Join(tmp, "link"), filepath.Join(tmp, "empty")
	if err := errors.Join(
		os.WriteFile(file, nil, 0o644),
		os.MkdirAll(filepath.Join(full, "something"), 0o755),
		os.Mkdir(filepath.Join(state, "mnt"), 0o755),
		os.Symlink(filepath.Join(state, "mnt"), link),
		os.Mkdir(empty, 0o755),
	); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ mountpoint, real, want string }{
		{filepath.Join(tmp, "nothing"), s.real, "no such file or directory"},
		{filepath.Join(tmp, "nothing", "below"), s.real, "no such file or directory"},
		{file, s.real, "not a directory"},
		{full, s.real, `the directory is not empty (it has "something")`},
		{filepath.Join(state, "mnt"), s.real, "the mount point is in the state directory " + state},
		{link, s.real, "the mount point is in the state directory " + state},
		{state, s.real, "the mount point is in the state directory " + state},
		{filepath.Dir(state), s.real, "the state directory " + state + " would be under the mount"},
		{empty, filepath.Join(s.real, "nothing"), "no such file or directory"},
	} {
		server, err := fs.Mount(fs.Options{Mountpoint: c.mountpoint, Real: c.real, State: state, Store: s, Realiser: s})
		if err == nil {
			server.Unmount(t.Context())
			t.Errorf("%s: mounted", c.mountpoint)
			continue
		}
		if got := err.Error(); !strings.HasPrefix(got, "mount "+c.mountpoint+": ") || !strings.HasSuffix(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: %v, want %s", c.mountpoint, err, c.want)
		}
	}
	if entries, _ := os.ReadDir(empty); len(entries) > 0 || mounted(empty) {
		t.Error("something was changed")
	}
}

func TestLiveMountIsRefused(t *testing.T) {
	s := newFakeStore(t)
	dir, _ := mount(t, s, nil)
	_, err := fs.Mount(fs.Options{Mountpoint: dir, Real: s.real, Store: s, Realiser: s})
	if err == nil || !strings.HasSuffix(err.Error(), `already a mount point of "storefs" (fuse.storefs)`) {
		t.Errorf("%v", err)
	}
	must(t, dir, `ls $S`, "")
}

// serve serves dir from a process of its own, with name(1) quickly made and
// others never.
func serve(t *testing.T, dir, real string) *exec.Cmd {
	t.Helper()
	cmd, _ := serveHeld(t, dir, real, "", nil)
	return cmd
}

func TestDeadMountIsReplaced(t *testing.T) {
	needFuse(t)
	s := newFakeStore(t)
	dir := mountDir(t)
	for range 2 { // each on top of the remains of the one before
		server := serve(t, dir, s.real)
		must(t, dir, `cat $S/$1/share/doc`, "doc", name(1, "quick"))
		_, wait := spawn(t, dir, `cat $S/$1/share/doc`, name(2, "never"))
		time.Sleep(100 * time.Millisecond)
		server.Process.Signal(unix.SIGUSR2)
		until(t, "the kernel knows no attributes", func() bool { return os.Remove(s.real+".replacing") == nil })
		server.Process.Kill()
		server.Wait()
		if err := wait(); err == nil {
			t.Error("a waiter succeeded without a server")
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != unix.ENOTCONN {
			t.Fatalf("the mount is not dead: %v", err)
		}
		makeWritable(s.real)
		os.RemoveAll(filepath.Join(s.real, name(1, "quick")))
	}
	// Also by a link to a link.
	links := t.TempDir()
	if err := errors.Join(os.Mkdir(links+"/d", 0o755), os.Symlink(dir, links+"/d/one"), os.Symlink("d/../d/one/", links+"/two")); err != nil {
		t.Fatal(err)
	}
	server, err := fs.Mount(fs.Options{Mountpoint: links + "/two", Real: s.real, Store: s, Realiser: s})
	if err != nil {
		t.Fatal(err)
	}
	must(t, dir, `ls $S`, "")
	if err := server.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	if mounted(dir) {
		t.Error("still mounted")
	}
}

// Of dead mounts those of stores are cleared away, however many, and those of others are
// for their owners to unmount.
func TestDeadMountsOfOthers(t *testing.T) {
	needFuse(t)
	if uid() != 0 {
		t.Skip("mounting needs root")
	}
	s := newFakeStore(t)
	dir := mountDir(t)
	dead := func(source string) {
		t.Helper()
		fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Mount(source, dir, "fuse."+source, 0, fmt.Sprintf("fd=%d,rootmode=40555,user_id=0,group_id=0", fd)); err != nil {
			t.Fatal(err)
		}
	}
	dead("sshfs")
	dead("storefs")
	dead("storefs")
	opts := fs.Options{Mountpoint: dir, Real: s.real, Store: s, Realiser: s}
	if _, err := fs.Mount(opts); err == nil || !strings.HasSuffix(err.Error(), `a dead mount of "sshfs" (fuse.sshfs) is there: unmount it first`) {
		t.Errorf("%v", err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	dead("storefs")
	dead("storefs")
	server, err := fs.Mount(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Unmount(t.Context()); err != nil || mounted(dir) {
		t.Errorf("%v, mounted: %v", err, mounted(dir))
	}
}

// start mounts s without the checks at the end that mount makes.
func start(t *testing.T, s *fakeStore) (string, *fs.Server) {
	t.Helper()
	needFuse(t)
	dir := mountDir(t)
	server, err := fs.Mount(fs.Options{Mountpoint: dir, Real: s.real, Store: s, Realiser: s})
	if err != nil {
		t.Fatal(err)
	}
	return dir, server
}

func TestUnmountEndsWaits(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	s := newFakeStore(t)
	dir, server := start(t, s)
	hold := make(chan struct{})
	var waits []func() error
	for i, promised := range shapes {
		n := s.add(name(i, "x"), recipe{make: tree, promised: promised, hold: hold})
		for range 5 {
			_, wait := spawn(t, dir, `cat $S/$1/share/doc`, n)
			waits = append(waits, wait)
		}
	}
	until(t, "all wait", func() bool { return s.waiting() == 10 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := server.Unmount(ctx); err != nil {
		t.Error(err)
	}
	for _, wait := range waits {
		if err := wait(); err == nil {
			t.Error("a waiter succeeded")
		}
	}
	if mounted(dir) {
		t.Error("still mounted")
	}
	server.Wait()
	if err := server.Unmount(ctx); err != nil {
		t.Errorf("again: %v", err)
	}
	s.finish(t)
	goleak.VerifyNone(t, leaks)
}

func TestUnmountBusy(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	s := newFakeStore(t)
	dir, server := start(t, s)
	n := s.add(name(1, "x"), recipe{make: tree})
	must(t, dir, `cat $S/$1/share/doc`, "doc", n)
	cmd, wait := spawn(t, dir, `bash -c 'cd $S/'$1' && kill -STOP $$; cat share/doc'`, n)
	until(t, "stopped", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		return strings.Contains(string(b), ") T ")
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := server.Unmount(ctx); !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v", err)
	}
	if mounted(dir) {
		t.Error("still mounted")
	}
	// Who is in it can go on until the end.
	cmd.Process.Signal(syscall.SIGCONT)
	if err := wait(); err != nil {
		t.Error(err)
	}
	server.Wait()
	goleak.VerifyNone(t, leaks)
}

// Somebody else's umount, or abort, ends the server like its own.
func TestUnmountedByOthers(t *testing.T) {
	if uid() != 0 {
		t.Skip("umount needs root")
	}
	s := newFakeStore(t)
	for _, flags := range []int{0, unix.MNT_DETACH, unix.MNT_FORCE} {
		dir, server := start(t, s)
		hold := make(chan struct{})
		if flags == unix.MNT_FORCE {
			// It aborts the connection below one who waits, and who lives on.
			n := s.add(name(9, "x"), recipe{make: tree, hold: hold})
			cmd, wait := spawn(t, dir, `bash -c 'true < $S/'$1'/share/doc; exec sleep 1000'`, n)
			defer func() {
				cmd.Process.Kill()
				wait()
			}()
			until(t, "it waits", func() bool { return s.waiting() == 1 })
		}
		err := unix.Unmount(dir, flags)
		if err != nil && flags != unix.MNT_FORCE {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { server.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Errorf("flags %d: the server goes on", flags)
		}
		s.finish(t)
		if err := server.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Another mount on top is left alone.
func TestUnmountOnlyOurs(t *testing.T) {
	if uid() != 0 {
		t.Skip("mounting needs root")
	}
	s := newFakeStore(t)
	dir, server := start(t, s)
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := server.Unmount(t.Context()); err == nil || !strings.Contains(err.Error(), "another mount lies over it") {
		t.Errorf("%v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("the other mount is gone: %x, %v", st.Type, err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := server.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}

// An ordinary user, by fusermount3 and in a user namespace of the user's own.
// Run as root it uses a mount namespace with a /dev/fuse that all may open.
func TestOrdinaryUser(t *testing.T) {
	if uid() != 0 {
		t.Skip("run as an ordinary user, the other tests are this one")
	}
	needFuse(t)
	for _, tool := range []string{"fusermount3", "unshare", "setpriv", "mknod"} {
		needTool(t, tool)
	}
	if _, err := user.LookupId("65534"); err != nil {
		missing(t, "no user nobody: fusermount3 needs a name")
	}
	tmp, err := os.MkdirTemp("", "fs-ordinary-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "fs.test")
	script := `set -e
T=$1; cp $2 $T/fs.test; mknod $T/fuse c 10 229; chmod 666 $T/fuse; chmod 755 $T; mkdir $T/tmp; chmod 1777 $T/tmp
mount --bind $T/fuse /dev/fuse
cd /
export HOME=$T/tmp TMPDIR=$T/tmp
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
setpriv --reuid 65534 --regid 65534 --clear-groups $3 $T/fs.test -test.count=1 -test.run "$4" 2>&1`
	const tests = "TestKill|TestWritesStartNothing|TestWhatIsSeen|TestManyCallers|TestDeadMount|TestUnmountEnds|TestUnmountBusy|TestLiveMount|TestMountpointIsRefused|TestMountRootIsKnown|TestListingFollows|TestControl|TestPassthrough|TestOpensAreShared|TestTakeOver|TestDetach"
	for _, c := range []struct{ name, in string }{{"fusermount3", ""}, {"user namespace", "unshare -Urm"}} {
		t.Run(c.name, func(t *testing.T) {
			if c.in != "" {
				if out, err := exec.Command("setpriv", "--reuid", "65534", "--clear-groups", "unshare", "-Urm", "true").CombinedOutput(); err != nil {
					missing(t, "no user namespaces: "+string(out))
				}
			}
			os.RemoveAll(filepath.Join(tmp, "tmp"))
			os.Remove(filepath.Join(tmp, "fuse"))
			os.Remove(bin)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, "unshare", "-m", "bash", "-c", script, "bash", tmp, testBinary(t), c.in, tests).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "PASS") {
				t.Errorf("%s, %v", out, err)
			}
		})
	}
}
