package builder_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"storefs/builder/buildertest"
	"storefs/store"
)

// again runs tests of this binary in another process: as another user, or in a
// namespace. Its temporary files go to a directory of that user.
func again(t *testing.T, run string, uid int, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	// t.TempDir is closed to other users.
	dir, err := os.MkdirTemp("", "builder-as-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		buildertest.Writable(dir)
		os.RemoveAll(dir)
	})
	program := filepath.Join(dir, "test")
	buildertest.CopyFile(t, "/proc/self/exe", program)
	tmp := filepath.Join(dir, "tmp")
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(tmp, 0o700), os.Chown(tmp, uid, uid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-test.run="+run, "-test.v", "-test.timeout=5m")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp, againVariable+"=1")
	cmd.SysProcAttr = attr
	return cmd
}

// againVariable says, in the environment, that a process is one that again made.
const againVariable = "STOREFS_TEST_AGAIN"

func pass(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		text := regexp.MustCompile(`(?m)^ *(=== |--- PASS).*\n`).ReplaceAllString(string(out), "")
		t.Fatalf("%v\n%s", err, text)
	}
	if !strings.Contains(string(out), "--- PASS: "+strings.Trim(cmd.Args[1][len("-test.run="):], "^$")) {
		t.Fatalf("it did not run:\n%s", out)
	}
}

func TestSuiteAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	const uid = 12345
	for _, run := range []string{"^TestSuite$", "^TestCheck$"} {
		pass(t, again(t, run, uid, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}))
	}
}

// Root in a container may be no more than one ordinary user of the host.
func TestSuiteAsRootOfOneUser(t *testing.T) {
	t.Parallel()
	pass(t, again(t, "^TestSuite$", 0, rootOfOneUser()))
}

func rootOfOneUser() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
}

// A state directory may lie where root gets by its capabilities only.
func TestClosedDirectories(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		cmd := again(t, "^TestClosedDirectories$", 0, nil)
		tmp := cmd.Dir
		for i, uid := range []int{0, 23456, 34567} {
			tmp = filepath.Join(tmp, strconv.Itoa(i))
			for _, err := range []error{os.Mkdir(tmp, 0o700), os.Chown(tmp, uid, uid)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
		pass(t, cmd)
		return
	}
	w := buildertest.NewWorld(t, local)
	w.Built(w.Job("closed", `echo > $out`, nil))
}

// What is built by this program itself is built by who could not execute its file.
func TestClosedProgram(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		cmd := again(t, "^TestClosedProgram$", 0, nil)
		if err := os.Chmod(cmd.Path, 0o700); err != nil {
			t.Fatal(err)
		}
		pass(t, cmd)
		return
	}
	w := buildertest.NewWorld(t, local)
	w.Built(w.Fetch("file:///etc/group", "sha256", store.HashOf(store.SHA256, []byte("root:x:0:\nnixbld:!:100:\nnogroup:x:65534:\n"))))
}
