package fstest

import (
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"storefs/event"
)

// The demo's graph, in two states of one store: once undisturbed, once with
// the server killed twenty times at different moments. No builder outlives its
// server, no half path is ever visible, nothing that was registered is built
// again, and both get the same bytes.
func TestStandardLibrarySurvivesKills(t *testing.T) {
	if testing.Short() {
		t.Skip("builds half of Go's standard library twice")
	}
	l := newLab(t)
	prepared := l.Dir + "/gostd"
	cmd := exec.Command("go", "run", "storefs/examples/gostd/gen", prepared)
	if r := run(t, cmd); r.status != 0 {
		t.Fatal(r.stderr)
	}
	file, err := filepath.Abs("../examples/gostd/gostd.star")
	if err != nil {
		t.Fatal(err)
	}
	instantiate := func(l *lab) (drv, out string) {
		drv = l.ok("instantiate", file+":hello", "--arg", "gostd="+prepared)[0]
		return drv, l.ok("query", "outputs", drv)[0]
	}
	drv, out := instantiate(l)
	const long = 5 * time.Minute // a machine that does much else builds it no faster
	l.serve()
	if r := l.inShellWithin(long, out+"/bin/hello"); r.status != 0 || !strings.Contains(r.stdout, "hello, world") {
		t.Fatalf("hello: status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	l.stop()
	undisturbed := l.hashes(drv)

	second := *l
	k := &second
	k.State = l.Dir + "/state2"
	k.env = append(os.Environ(), "STOREFS_STATE="+k.State)
	k.ok("init", "--store", l.Store)
	if d, o := instantiate(k); d != drv || o != out {
		t.Fatalf("the second state has other paths: %s, %s", d, o)
	}
	built := map[string]int{}
	for i := range 20 {
		k.serve()
		events := k.watch()
		// Through a shell: a Go program that forks is suspended until the exec
		// of its child is through, which here is after the build.
		hello := exec.Command("sh", "-c", "exec "+out+"/bin/hello")
		blocked := make(chan error, 1)
		go func() { blocked <- hello.Run() }()
		time.Sleep(time.Duration(200+rand.IntN(1500)) * time.Millisecond)
		for _, e := range events() {
			if e.Kind == event.Done && e.Text == event.OutcomeBuilt {
				built[string(e.Goal)]++
			}
		}
		k.kill()
		// A fast machine has built it before the last round.
		if err := <-blocked; err == nil && k.storefs("query", "info", out).status != 0 {
			t.Errorf("round %d: hello ran although the server was killed", i)
		}
		k.noOrphans(i)
	}
	k.ok("verify", "--check-contents")
	k.serve()
	events := k.watch()
	if r := k.inShellWithin(long, out+"/bin/hello"); r.status != 0 {
		t.Fatalf("hello after the kills: status %d\n%s", r.status, r.stderr)
	}
	for _, e := range events() {
		if e.Kind == event.Done && e.Text == event.OutcomeBuilt {
			built[string(e.Goal)]++
		}
	}
	k.stop()
	for goal, n := range built {
		if n > 1 {
			t.Errorf("%s was built and registered %d times", goal, n)
		}
	}
	if disturbed := k.hashes(drv); !maps.Equal(undisturbed, disturbed) {
		t.Error("the two states do not have the same NAR hashes")
		for p, h := range undisturbed {
			if disturbed[p] != h {
				t.Logf("%s: %s and %s", p, h, disturbed[p])
			}
		}
	}
	k.ok("verify", "--check-contents")
}

// hashes maps all outputs of the derivations that drv needs to their NAR
// hashes.
func (l *lab) hashes(drv string) map[string]string {
	l.t.Helper()
	var drvs []string
	for _, p := range l.ok("query", "requisites", drv) {
		if strings.HasSuffix(p, ".drv") {
			drvs = append(drvs, p)
		}
	}
	hashes := map[string]string{}
	path := ""
	for _, line := range l.ok(append([]string{"query", "info"}, l.ok(append([]string{"query", "outputs"}, drvs...)...)...)...) {
		if p, ok := strings.CutPrefix(line, "path: "); ok {
			path = p
		}
		if h, ok := strings.CutPrefix(line, "nar-hash: "); ok {
			hashes[path] = h
		}
	}
	if len(hashes) < len(drvs) || len(drvs) < 100 {
		l.t.Fatalf("%d derivations, %d hashes", len(drvs), len(hashes))
	}
	return hashes
}

// noOrphans checks that no builder of the state is left: one would see its
// scratch directory in its mount table.
func (l *lab) noOrphans(round int) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var left []string
		tables, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
		for _, f := range tables {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), l.State+"/builds/") {
				left = append(left, filepath.Dir(f))
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("round %d: builders outlived their server: %v", round, left)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
