package builder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/store"
)

// When memory runs out, the kernel ends builders sooner than whoever waits for them.
func TestExpendable(t *testing.T) {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(own)))
	if err != nil {
		t.Fatal(err)
	}
	for way, edit := range ways() {
		t.Run(way, func(t *testing.T) {
			w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				return local(t, o)
			})
			// A process that it starts has it too.
			r := w.Built(w.Job("expendable", "cat /proc/self/oom_score_adj > $out", nil))
			if got, want := w.Text(r), fmt.Sprintln(min(n+250, 1000)); got != want {
				t.Errorf("a builder has %s, and we have %d", got, n)
			}
		})
	}
	if got, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil || string(got) != string(own) {
		t.Errorf("we have %s %v, had %s", got, err, own)
	}
}

func TestExpendableAsUser(t *testing.T) {
	const uid = 12345
	pass(t, again(t, "^TestExpendable$", uid, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}))
}

const groupVariable = "STOREFS_TEST_GROUP"

// Whose failure came of want of memory is told so, and others are not; and we live on.
func TestMemoryRunsOut(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		cmd := again(t, "^TestMemoryRunsOut$", 0, nil)
		cmd.Env = append(cmd.Env, groupVariable+"="+smallGroup(t, 256<<20))
		pass(t, cmd)
		return
	}
	if err := os.WriteFile(filepath.Join(os.Getenv(groupVariable), "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	for way, edit := range ways() {
		t.Run(way, func(t *testing.T) {
			w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				return local(t, o)
			})
			const said = "; memory ran out meanwhile: the kernel ended a process"
			for _, c := range []struct{ name, script, want string }{
				{"before", "exit 7", "builder sh failed with exit status 7"},
				{"itself", "exec dd if=/dev/zero of=/dev/null bs=512M count=1", "builder sh was killed by SIGKILL" + said},
				{"after", "exit 7", "builder sh failed with exit status 7"},
				{"a child", "dd if=/dev/zero of=/dev/null bs=512M count=1; exit 7", "builder sh failed with exit status 7" + said},
			} {
				if f := w.Failed(w.Job("memory", c.script, nil)); f.Message != c.want || f.Cause != store.CauseBuilder {
					t.Errorf("%s: %s: %s", c.name, f.Cause, f.Message)
				}
			}
			w.Built(w.Job("well", "echo well > $out", nil))
		})
	}
}

// smallGroup makes a control group that may have that much memory.
func smallGroup(t *testing.T, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for parent, limit := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		dir, err := os.MkdirTemp(parent, "storefs-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(size)), 0); err == nil {
			return dir
		}
	}
	t.Skip("no control group with a limit on memory can be made here")
	return ""
}
