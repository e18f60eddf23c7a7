package builder

import (
	"os"
	"path/filepath"
	"testing"
)

// Where the kernel tells how many processes it ended, of our own control group if it can.
func TestShortagesFile(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	second := put("second/user/session/memory.events", "low 0\nhigh 3\noom 2\noom_kill 5\n")
	put("memory.events", "oom_kill 9\n")
	put("memory.oom_control", "oom_kill 9\n")
	t.Chdir(dir)
	first := put("first/box/inner/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
	const (
		other  = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
		others = "32 31 0:29 / /nowhere rw - cgroup cgroup rw,cpu,cpuacct\n"
	)
	two := other + "41 31 0:38 / " + dir + "/second rw,relatime shared:3 - cgroup2 cgroup2 rw,nsdelegate\n"
	one := other + others + "35 31 0:32 /docker " + dir + "/first rw - cgroup cgroup rw,memory\n"
	for _, c := range []struct {
		what, groups, mounts, vmstat string
		want                         string
		count                        int
	}{
		{"the second version", "0::/user/session\n", two, "oom_kill 1\n", second, 5},
		{"the first version, in a container", "9:cpu,cpuacct:/\n4:memory:/docker/box/inner\n0::/\n", one + two, "oom_kill 1\n", first, 7},
		{"outside of what is mounted", "4:memory:/dockers/box/inner\n", one, "pswpin 0\noom_kill 1\nx 2\n", "vmstat", 1},
		{"the root, which tells nothing", "0::/\n", two, "oom_kill 0\n", "vmstat", 0},
		{"none", "", other, "oom_kill 2\n", "vmstat", 2},
		{"an old kernel", "", "", "pswpin 0\n", "", 0},
		{"nonsense", "::\n4:memory\n\n4:memory:/docker/box/inner\n", "x\n - cgroup cgroup rw,memory\n1 2 3 /docker\n", "oom_kill x\n", "", 0},
	} {
		// What is not found is not looked for where we are.
		proc := filepath.Join("proc", c.what)
		put(proc+"/self/cgroup", c.groups)
		put(proc+"/self/mountinfo", c.mounts)
		if vmstat := put(proc+"/vmstat", c.vmstat); c.want == "vmstat" {
			c.want = vmstat
		}
		got := shortagesFile(filepath.Join(dir, proc))
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
			continue
		}
		if n := (&shortages{file: got}).before(); n != c.count {
			t.Errorf("%s: %d, want %d", c.what, n, c.count)
		}
	}
	if got := shortagesFile(filepath.Join(dir, "absent")); got != "" {
		t.Errorf("without /proc: %q", got)
	}
}
