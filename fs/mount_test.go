package fs_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"storefs/fs"
)

// soon is a generous bound for what must not wait for a build.
const soon = 2 * time.Second

// needFuse skips where there is no FUSE, except in continuous integration,
// where it must be.
func needFuse(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		missing(t, "no FUSE: "+err.Error())
	}
	f.Close()
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func needTool(t testing.TB, tool string) string {
	t.Helper()
	p, err := exec.LookPath(tool)
	if err != nil {
		missing(t, "no "+tool)
	}
	return p
}

// mount mounts s until the end of the test, which checks that nothing is left
// of it. It returns the mount point.
func mount(t *testing.T, s *fakeStore, change func(*fs.Options)) (string, *fs.Server) {
	t.Helper()
	needFuse(t)
	leaks := goleak.IgnoreCurrent()
	dir := mountDir(t)
	opts := fs.Options{
		Mountpoint: dir,
		Real:       s.real,
		Store:      s,
		Realiser:   s,
		Control:    s,
		Facts:      s,
		Logger:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&opts)
	}
	server, err := fs.Mount(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.finish(t)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Unmount(ctx); err != nil {
			t.Errorf("unmount: %v", err)
		}
		if mounted(dir) {
			t.Errorf("still mounted: %s", dir)
		}
		goleak.VerifyNone(t, leaks)
	})
	return dir, server
}

// mountDir is a new empty directory that is unmounted, whatever happens,
// before it is removed.
func mountDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for mounted(dir) {
			if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				exec.Command("fusermount3", "-u", "-z", dir).Run()
				break
			}
		}
	})
	return dir
}

func mounted(dir string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && bytes.Contains(b, []byte(" "+dir+" "))
}

// sh runs a shell script, with $S as the mount point, and returns what it
// prints. The mount is touched by other processes only: this one serves it.
func sh(t testing.TB, dir, script string, args ...string) (string, error) {
	t.Helper()
	return shell(t, 60*time.Second, dir, script, args...)
}

func shell(t testing.TB, limit time.Duration, dir, script string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-c", script, "bash"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "S="+dir, "LC_ALL=C")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%s: took longer than %v", script, limit)
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// must runs a script that has to succeed and print want.
func must(t testing.TB, dir, script, want string, args ...string) {
	t.Helper()
	got, err := sh(t, dir, script, args...)
	if err != nil || got != want {
		t.Errorf("%s\n got %q, %v\nwant %q", script, got, err, want)
	}
}

// until waits for a condition that must come true.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func uid() int { return os.Geteuid() }
func gid() int { return os.Getegid() }

// The kernel knows the permissions of the root as soon as there is a mount: who
// comes first must not depend on an answer that a notification overtakes.
func TestMountRootIsKnown(t *testing.T) {
	needFuse(t)
	dir, server := start(t, newFakeStore(t))
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, unix.STATX_MODE, &st); err != nil || st.Mode != unix.S_IFDIR|0o555 {
		t.Errorf("mode %o, %v", st.Mode, err)
	}
	if err := server.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}
