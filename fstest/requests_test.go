package fstest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// requests are how many requests of each kind the kernel has sent, forgets
// aside: nobody waits for those.
func (l *lab) requests() map[string]int {
	l.t.Helper()
	var s struct {
		Mount struct{ Requests map[string]int }
	}
	if err := json.Unmarshal([]byte(strings.Join(l.ok("status", "--json"), "\n")), &s); err != nil {
		l.t.Fatal(err)
	}
	delete(s.Mount.Requests, "forget")
	return s.Mount.Requests
}

// costs runs a script and returns the requests that it took.
func (l *lab) costs(script string) map[string]int {
	l.t.Helper()
	before := l.requests()
	if r := l.inShell(script); r.status != 0 {
		l.t.Fatalf("%s: status %d\n%s%s", script, r.status, r.stdout, r.stderr)
	}
	after := l.requests()
	for name, n := range before {
		if after[name] -= n; after[name] == 0 {
			delete(after, name)
		}
	}
	return after
}

// What a workload costs is decided by how many requests it takes, which is the
// same on every machine: warm, none; the first time, no more than there are
// things to learn.
func TestRequests(t *testing.T) {
	l := newLab(t)
	const dirs, each = 20, 50
	for d := range dirs {
		for f := range each {
			l.write(fmt.Sprintf("tree/many/d%d/f%d", d, f), "text\n")
		}
	}
	l.copyFile(l.Dir+"/tools/bin/busybox", "tree/busybox")
	if err := os.Symlink("many/d1", l.Dir+"/tree/link"); err != nil {
		t.Fatal(err)
	}
	path := l.ok("add", l.Dir+"/tree")[0]
	// Another tree of the same content, which nobody touches but one.
	if err := os.Rename(l.Dir+"/tree", l.Dir+"/single"); err != nil {
		t.Fatal(err)
	}
	single := l.ok("add", l.Dir+"/single")[0]

	workloads := []struct {
		name, script string
		// first is the most that the first run may take with no-open. What is
		// refused once and for all (open, opendir, flush, statx) is sent once.
		first map[string]int
	}{
		{"find", "find R/many -size +1000000", map[string]int{"lookup": 3, "readdirplus": 2*dirs + 2, "opendir": 1, "statfs": 1}},
		{"stat", "stat R/many/d*/f* R/link/f1 >/dev/null", map[string]int{"lookup": 2, "readlink": 1, "statx": 1}},
		{"tar", "tar cf - -C R many | cat >/dev/null", map[string]int{"read": dirs * each, "open": 1, "flush": 1}},
		{"exec", "for i in 1 2 3 4 5; do R/busybox true; done", map[string]int{"lookup": 1, "read": 40}},
	}
	for _, data := range []string{"noopen", "cached", "passthrough"} {
		if data == "passthrough" && os.Geteuid() != 0 {
			continue
		}
		t.Run(data, func(t *testing.T) {
			l.serve("--data=" + data)
			defer l.stop()
			for _, w := range workloads {
				script := strings.ReplaceAll(w.script, "R", path)
				first := l.costs(script)
				for name, n := range first {
					most := w.first[name]
					if data != "noopen" && (name == "open" || name == "release") {
						most = dirs*each + 5
					}
					if data == "passthrough" && name == "read" {
						most = 0
					}
					if n > most {
						t.Errorf("%s, the first time: %d × %s, at most %d expected (%v)", w.name, n, name, most, first)
					}
				}
			}
			for _, w := range workloads {
				again := l.costs(strings.ReplaceAll(w.script, "R", path))
				// find asks statfs whenever it begins; the kernel keeps no answer.
				delete(again, "statfs")
				if data != "noopen" {
					delete(again, "open")
					delete(again, "release")
				}
				if len(again) > 0 {
					t.Errorf("%s, again: %v", w.name, again)
				}
			}
			// Files that are not there cost one request each, once.
			missing := fmt.Sprintf("for i in 1 2 3 4 5; do for n in 1 2 3; do test ! -e %s/many/none-$n || exit 1; done; done", single)
			if c := l.costs(missing); c["lookup"] > 5 || len(c) != 1 {
				t.Errorf("what is not there: %v", c)
			}
			// The root knows names, and keeps none of its own accord.
			if c := l.costs("ls " + l.Store + " >/dev/null"); c["lookup"] > 0 || c["getattr"] > 1 {
				t.Errorf("ls of the root: %v", c)
			}
			if r := l.storefs("status"); !strings.Contains(r.stdout, "mount: data "+data+",") || !strings.Contains(r.stdout, " lookup ") {
				t.Errorf("status: %s", r.stdout)
			}
		})
	}
}
