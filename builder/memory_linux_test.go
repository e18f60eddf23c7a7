package builder_test

import (
	"errors"
	"fmt"
	"io/fs"
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
		cmd.Env = append(cmd.Env, groupVariable+"="+smallGroup(t, 512<<20))
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
				{"itself", "exec dd if=/dev/zero of=/dev/null bs=1G count=1", "builder sh was killed by SIGKILL" + said},
				{"after", "exit 7", "builder sh failed with exit status 7"},
				{"a child", "dd if=/dev/zero of=/dev/null bs=1G count=1; exit 7", "builder sh failed with exit status 7" + said},
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
	// The first version's, and the second's: in the place of that, where there is the first,
	// may be a directory of which anything can be made.
	for _, v := range []struct{ parent, limit, swap string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness"},
		{"/sys/fs/cgroup", "memory.max", "memory.swap.max"},
	} {
		dir, err := os.MkdirTemp(v.parent, "storefs-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		set := func(name, value string) error {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(value)
			return errors.Join(err, f.Close())
		}
		if set(v.limit, strconv.Itoa(size)) != nil {
			continue
		}
		// Else there may be more, on a disk. Not every kernel has it.
		if err := set(v.swap, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return dir
	}
	t.Skip("no control group with a limit on memory can be made here")
	return ""
}
