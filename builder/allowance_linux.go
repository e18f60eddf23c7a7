package builder

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// allowance is how many there may be, by name, of what the kernel counts for each user, in a
// user namespace and in all below it together: namespaces, instances and watches of inotify
// and fanotify. Those of builders count for whoever made the first of their namespaces as
// well: a builder could take all that root may have on the host, where that is 128 instances
// of inotify.
type allowance map[string]int

// allowances is where the kernel has them, of the user namespace of who looks.
const allowances = "proc/sys/user"

// leastAllowance is what is not divided any more: sandboxes need namespaces as well.
const leastAllowance = 100

// allowanceOf is what builders get: half of what we have. Those who are the user that we are
// get no namespaces of control groups, in which they could mount the files of our own group:
// where that is ours to change, as in a session of systemd, they could freeze and end us, and
// whatever else is in it.
func allowanceOf(ids identity) allowance {
	a := make(allowance)
	files, _ := filepath.Glob("/" + allowances + "/max_*")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n >= leastAllowance {
			a[filepath.Base(f)] = n / 2
		}
	}
	if !ids.setgroups {
		a["max_cgroup_namespaces"] = 0
	}
	return a
}

// set makes it that of this process's user namespace. proc, the file system that shows it,
// is below the directory root. What the kernel does not count, or does not let us set, stays
// as it is.
func (a allowance) set(root string) {
	for name, n := range a {
		_ = os.WriteFile(filepath.Join(root, allowances, name), strconv.AppendInt(nil, int64(n), 10), 0)
	}
}
