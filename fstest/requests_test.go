package fstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
)

// meter tells what scripts cost in requests.
type meter struct {
	*lab
	sent map[string]int // so far
}

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

// costs runs a script and returns the requests that it took, without kinds
// that do not count.
func (m *meter) costs(script string, without ...string) map[string]int {
	m.t.Helper()
	if r := m.inShell(script); r.status != 0 {
		m.t.Fatalf("%s: status %d\n%s%s", script, r.status, r.stdout, r.stderr)
	}
	now := m.requests()
	cost := maps.Clone(now)
	for name, n := range m.sent {
		if cost[name] -= n; cost[name] == 0 {
			delete(cost, name)
		}
	}
	for _, name := range without {
		delete(cost, name)
	}
	m.sent = now
	return cost
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
	tree := l.ok("add", l.Dir+"/tree")[0]
	for _, data := range []string{"noopen", "passthrough"} {
		t.Run(data, func(t *testing.T) {
			if data == "passthrough" && os.Geteuid() != 0 {
				t.Skip("passthrough needs root")
			}
			// Whoever empties the kernel's caches meanwhile, as other tests
			// do, spoils a count, but not one after the other.
			var wrong []string
			for range 5 {
				if wrong = countRequests(l, data, tree, dirs, each); len(wrong) == 0 {
					return
				}
			}
			t.Error(strings.Join(wrong, "\n"))
		})
	}
}

// countRequests returns what costs more than it should.
func countRequests(l *lab, data, tree string, dirs, each int) (wrong []string) {
	// With opens, each one is asked for, and told when it is over.
	var opens []string
	if data != "noopen" {
		opens = []string{"open", "release"}
	}
	reads := map[string]int{"noopen": 1, "passthrough": 0}[data]
	l.serve("--data=" + data)
	defer l.stop()
	m := &meter{l, l.requests()}
	// most is what the first run may take. What is refused once and for all
	// (open, opendir, flush, statx) is sent once.
	workloads := []struct {
		name, script string
		most         map[string]int
	}{
		{"find", "find T/many -size +1000000", map[string]int{"lookup": 2, "readdirplus": 2 * (dirs + 1), "opendir": 1, "statfs": 1}},
		{"stat", "stat T/many/d*/f* T/link/f1 >/dev/null", map[string]int{"lookup": 2, "readlink": 1, "statx": 1}},
		{"tar", "tar cf - -C T many | cat >/dev/null", map[string]int{"read": reads * dirs * each, "open": 1, "flush": 1}},
		{"exec", "for i in 1 2 3 4 5; do T/busybox true; done", map[string]int{"lookup": 1, "read": reads * 40}},
	}
	for _, w := range workloads {
		first := m.costs(strings.ReplaceAll(w.script, "T", tree), opens...)
		for name, n := range first {
			if n > w.most[name] {
				wrong = append(wrong, fmt.Sprintf("%s, the first time: %d × %s, at most %d expected", w.name, n, name, w.most[name]))
			}
		}
	}
	for _, w := range workloads {
		// find asks statfs whenever it begins; the kernel keeps no answer.
		if again := m.costs(strings.ReplaceAll(w.script, "T", tree), append(opens, "statfs")...); len(again) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s, again: %v", w.name, again))
		}
	}
	// A file that is not there costs one request, once.
	missing := "for i in 1 2 3 4 5; do for n in 1 2 3; do test ! -e T/many/none-$n || exit 1; done; done"
	if c := m.costs(strings.ReplaceAll(missing, "T", tree)); len(c) > 1 || c["lookup"] > 3 {
		wrong = append(wrong, fmt.Sprintf("what is not there: %v", c))
	}
	// Listing the root asks for nothing about what is in it.
	if c := m.costs("ls " + l.Store + " >/dev/null"); c["lookup"] > 0 || c["getattr"] > 1 || c["readdirplus"] > 3 {
		wrong = append(wrong, fmt.Sprintf("ls of the root: %v", c))
	}
	if r := l.storefs("status"); !strings.Contains(r.stdout, "mount: data "+data+",") || !strings.Contains(r.stdout, " lookup ") {
		wrong = append(wrong, "status: "+r.stdout)
	}
	return wrong
}

// The thread by which Go's runtime watches over a server does not look each fiftieth of a
// millisecond when a request has come; and builders are woken as exactly as ever.
func TestDrowsy(t *testing.T) {
	l := newLab(t)
	l.star("slack.star", `default = sh("slack", "read -r slack < /proc/self/timerslack_ns; echo $slack > $out", kind = "regular")`)
	out := l.outputs("slack.star")[0]
	l.serve()
	slackOf := func(pid string) string {
		text, err := os.ReadFile("/proc/" + pid + "/timerslack_ns")
		if errors.Is(err, os.ErrPermission) { // also for root in a container
			missing(t, "how exactly a thread wakes is not ours to see, which needs CAP_SYS_NICE")
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	for _, when := range []string{"mounted", "upgraded"} {
		pid := fmt.Sprint(l.server())
		dir, err := os.Open("/proc/" + pid + "/task")
		if err != nil {
			t.Fatal(err)
		}
		threads, err := dir.Readdirnames(-1)
		dir.Close()
		if err != nil || len(threads) < 3 {
			t.Fatalf("%s: threads %v: %v", when, threads, err)
		}
		if got := slackOf(threads[1]); got != "1000000" {
			t.Errorf("%s: the timer slack of the thread that watches is %s, want 1000000", when, got)
		}
		if got, want := slackOf(threads[0]), slackOf("self"); got != want {
			t.Errorf("%s: that of the first thread is %s, want %s", when, got, want)
		}
		if when == "mounted" {
			l.ok("upgrade")
		}
	}
	if got, err := os.ReadFile(out); err != nil || strings.TrimSpace(string(got)) != slackOf("self") {
		t.Errorf("a builder has a timer slack of %q, want %s: %v", got, slackOf("self"), err)
	}
}
