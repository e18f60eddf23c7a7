package state

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"storefs/tree"
)

// roleEnv makes the test binary play a part in a test instead of running all of
// them.
const roleEnv = "STATE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		goleak.VerifyTestMain(m)
	case "registrar":
		exit(registrar(os.Args[1]))
	case "acknowledger":
		exit(acknowledger(os.Args[1]))
	case "verifier":
		exit(verifyAll(os.Args[1]))
	case "remover":
		exit(tree.RemoveAll(os.Args[1]))
	case "locker":
		exit(locker(os.Args[1], os.Args[2]))
	case "life":
		exit(life(os.Args[1]))
	}
	exit(fmt.Errorf("unknown role"))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play is a process that plays a part, as the given user if the test runs as
// root and uid is not 0.
func play(t testing.TB, role string, uid uint32, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, args...)
	if uid != 0 {
		// The go command builds test binaries where other users cannot go.
		c.Path = copyOf(t, self)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	// The race detector makes a process that ends wait for a second.
	c.Env = append(os.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0")
	c.Dir = "/"
	return c
}

func copyOf(t testing.TB, file string) string {
	t.Helper()
	to := filepath.Join(openDir(t), "test")
	data, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// openDir is a directory that other users can go to.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "state-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// openMemoryDir is memoryDir for other users.
func openMemoryDir(t testing.TB) string {
	t.Helper()
	dir := memoryDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

const otherUser = 65534

// users are those as whom something is tried: root and somebody else, or the
// one who runs the test.
func users() []uint32 {
	if os.Geteuid() == 0 {
		return []uint32{0, otherUser}
	}
	return []uint32{0}
}

// ownedDir makes a directory of that user in parent.
func ownedDir(t testing.TB, parent string, uid uint32) string {
	t.Helper()
	dir := filepath.Join(parent, "owned")
	err := os.Mkdir(dir, 0o755)
	if err == nil && uid != 0 {
		err = os.Chown(dir, int(uid), int(uid))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// verifyAll opens a state and reads every object in it.
func verifyAll(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Swept(); err != nil {
		return err
	}
	sum, err := s.Verify(context.Background(), VerifyOptions{Contents: true}, func(p Problem) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", p.Path, p.Message)
	})
	if err != nil {
		return err
	}
	if sum.Problems > 0 {
		return fmt.Errorf("%d problems", sum.Problems)
	}
	entries, err := os.ReadDir(s.RealDir())
	if err != nil {
		return err
	}
	if len(entries) != sum.Paths {
		return fmt.Errorf("%d names in real/, %d valid paths", len(entries), sum.Paths)
	}
	if entries, err := os.ReadDir(s.Builds()); err != nil || len(entries) > 0 {
		return fmt.Errorf("builds: %v, %w", entries, err)
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}
