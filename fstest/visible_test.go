package fstest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"storefs/normaliser"
)

// held makes a derivation whose builder waits for a file on the host. The
// returned function lets it end.
func (l *lab) held(name, script string) (body string, release func()) {
	l.t.Helper()
	dir := l.Dir + "/gates"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	body = fmt.Sprintf("%s = sh(%q, %q)\n", strings.ReplaceAll(name, "-", "_"), name,
		fmt.Sprintf("until test -e /gates/%s; do sleep 0.05; done; %s", name, script))
	return body, func() {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			l.t.Error(err)
		}
	}
}

// gates is the flag that lets builders see the files of held.
func (l *lab) gates() string { return "--sandbox-path=/gates=" + l.Dir + "/gates" }

// touch starts a program that waits; the returned function lets nothing but
// its success count.
func (l *lab) touch(argv ...string) (pid int, done func()) {
	l.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := os.CreateTemp(l.Dir, "out")
	if err != nil {
		l.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return cmd.Process.Pid, func() {
		l.t.Helper()
		if err := cmd.Wait(); err != nil {
			b, _ := os.ReadFile(out.Name())
			l.t.Errorf("%v: %v: %s", argv, err, b)
		}
	}
}

// waiters are those of `storefs status --json`.
func (l *lab) waiters() []normaliser.Waiter {
	l.t.Helper()
	var s struct{ Waiters []normaliser.Waiter }
	if err := json.Unmarshal([]byte(l.ok("status", "--json")[0]), &s); err != nil {
		l.t.Fatal(err)
	}
	return s.Waiters
}

func (l *lab) read(name string) string {
	b, err := exec.Command("cat", filepath.Join(l.Store, name)).CombinedOutput()
	if err != nil {
		l.t.Errorf("cat %s: %v", name, err)
	}
	return string(b)
}

func TestEverybodySeesWhyTheyWait(t *testing.T) {
	l := newLab(t)
	body, release := l.held("inner", "mkdir $out")
	file := l.star("a.star", body+`top = sh("top", "mkdir $out; echo $in > $out/file", env = {"in": inner.out})
above = sh("above", "mkdir $out", env = {"in": top.out})`)
	drv, top := l.ok("instantiate", file+":top")[0], l.outputs(file + ":top")[0]
	inner := l.ok("instantiate", file+":inner")[0]
	l.serve(l.gates())

	if w := l.waiters(); len(w) != 0 {
		t.Errorf("%+v", w)
	}
	watch := l.command("status", "--watch")
	shown, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	pid, done := l.touch("cat", top+"/file")
	waitFor(t, "the first waits", func() bool { return len(l.waiters()) == 1 }) // they are shown in this order
	build := l.command("build", inner)
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	var waiters []normaliser.Waiter
	waitFor(t, "both are shown", func() bool {
		waiters = l.waiters()
		return len(waiters) == 2 && waiters[0].Slowest != nil && waiters[0].Slowest.Phase == "build" && waiters[1].Phase == "build"
	})
	w := waiters[0]
	if w.PID != pid || w.Command != "cat" || w.UID != uint32(os.Getuid()) || string(w.Path) != top || string(w.Goal) != drv ||
		w.State != normaliser.WaitInput || w.Goals != 2 || string(w.Slowest.Goal) != inner {
		t.Errorf("%+v", w)
	}
	if w := waiters[1]; w.PID != build.Process.Pid || w.Command != "storefs" || string(w.Path) != inner || w.State != normaliser.WaitRun {
		t.Errorf("%+v", w)
	}
	table := strings.Split(l.read(".storefs/waiters"), "\n")
	if got := strings.Fields(table[0]); !slices.Equal(got, strings.Fields("PID UID COMMAND ELAPSED LEFT PATH GOAL DOING")) {
		t.Errorf("%q", table[0])
	}
	row := strings.Fields(table[1])
	if row[0] != fmt.Sprint(pid) || row[2] != "cat" || row[5] != top || row[6] != drv || !strings.Contains(table[1], "2 goals to go; inner: build ") {
		t.Errorf("%q", table[1])
	}
	if s := l.read(".storefs/status"); !strings.Contains(s, "waiting: 2\n") || !strings.Contains(s, fmt.Sprintf("cat (pid %d) waits for top: 2 goals to go; inner: build", pid)) {
		t.Errorf("%s", s)
	}
	for _, name := range []string{"why", "info"} {
		if s := l.read(".storefs/" + name + "/" + filepath.Base(top)); !strings.Contains(s, "waits for other goals") && !strings.Contains(s, "state: building\n") {
			t.Errorf("%s: %s", name, s)
		}
	}
	told := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(shown); lines.Scan(); {
			if strings.Contains(lines.Text(), fmt.Sprintf("cat (pid %d) waits for top", pid)) {
				told <- true
				return
			}
		}
		told <- false
	}()
	select {
	case ok := <-told:
		if !ok {
			t.Error("status --watch ended")
		}
	case <-time.After(time.Minute):
		t.Error("status --watch does not show who waits")
	}
	watch.Process.Kill()
	watch.Wait()
	// Who comes in the middle counts what waits, too.
	above := l.command("build", file+":above")
	if err := above.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the third waits", func() bool { return len(l.waiters()) == 3 })
	late := l.command("status", "--watch")
	if shown, err = late.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { late.Process.Kill(); late.Wait() })
	lines := bufio.NewScanner(shown)
	for lines.Scan() && !strings.Contains(lines.Text(), "waits for above") {
	}
	release()
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "[") {
	}
	if got := lines.Text(); !strings.HasPrefix(got, "[1/3] built inner") {
		t.Errorf("who watches from the middle is shown %q", got)
	}
	done()
	for _, cmd := range []*exec.Cmd{build, above} {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if w := l.waiters(); len(w) != 0 {
		t.Errorf("%+v", w)
	}
}

func TestFactsOfPaths(t *testing.T) {
	need(t, "getfattr")
	l := newLab(t)
	body, release := l.held("x", "mkdir $out; echo x > $out/file")
	file := l.star("a.star", body+`
dep = sh("dep", "echo dep > $out", kind = "regular")
user = sh("user", "mkdir $out; echo $dep > $out/file", env = {"dep": dep.out})
bad = sh("bad", "exit 3")
`)
	l.serve(l.gates())
	events := l.watch()
	facts := func(p string) map[string]string {
		t.Helper()
		b, err := exec.Command("getfattr", "--absolute-names", "-d", p).CombinedOutput()
		if err != nil {
			t.Fatalf("getfattr %s: %v: %s", p, err, b)
		}
		info := l.read(".storefs/info/" + filepath.Base(p))
		m := map[string]string{}
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "user.storefs."), "="); ok {
				m[k] = strings.Trim(v, `"`)
				if k != "state" && !strings.Contains(info, k+": "+m[k]+"\n") {
					t.Errorf("%s: no %q in info: %q", k, m[k], info)
				}
			}
		}
		return m
	}
	x, xdrv := l.outputs(file + ":x")[0], l.ok("instantiate", file+":x")[0]
	if f := facts(x); f["state"] != "unrealised" || f["deriver"] != xdrv || f["output"] != "out" || f["kind"] != "directory" || len(f) != 4 {
		t.Errorf("%v", f)
	}
	if n := events().started(); n != 0 {
		t.Errorf("%d builds started", n)
	}
	_, done := l.touch("cat", x+"/file")
	waitFor(t, "it is being built", func() bool { return facts(x)["state"] == "building" })
	release()
	done()
	waitFor(t, "its use is noted", func() bool { return facts(x)["last-use"] != "" })
	f := facts(x)
	if f["state"] != "realised" || f["deriver"] != xdrv || f["references"] != "0" {
		t.Errorf("%v", f)
	}
	var info struct {
		NarHash, Deriver string
		NarSize          int64
	}
	if err := json.Unmarshal([]byte(strings.Trim(l.ok("query", "info", "--json", x)[0], "[]")), &info); err != nil {
		t.Fatal(err)
	}
	if f["narhash"] != info.NarHash || f["narsize"] != fmt.Sprint(info.NarSize) || f["closure-size"] != f["narsize"] {
		t.Errorf("%v, want %+v", f, info)
	}
	for _, k := range []string{"registered", "last-use"} {
		if at, err := time.Parse(time.RFC3339, f[k]); err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s: %q", k, f[k])
		}
	}
	user := l.ok("build", file+":user")[0]
	if f := facts(user); f["references"] != "1" || f["closure-size"] <= f["narsize"] {
		t.Errorf("%v", f)
	}
	bad := l.outputs(file + ":bad")[0]
	if r := l.inShell("cat " + bad + "/file"); r.status == 0 {
		t.Error("bad was built")
	}
	if f := facts(bad); f["state"] != "failed" || !strings.Contains(f["failure"], "exit status 3") {
		t.Errorf("%v", f)
	}
	// Without attributes the file is still there.
	l.stop()
	l.serve("--no-xattrs")
	if r := l.inShell("getfattr -n user.storefs.state " + x); r.status == 0 || !strings.Contains(r.stderr, "not supported") {
		t.Errorf("%+v", r)
	}
	if s := l.read(".storefs/info/" + filepath.Base(x)); !strings.HasPrefix(s, "state: realised\n") {
		t.Errorf("%s", s)
	}
}

func TestPolicies(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
a = sh("a", "mkdir $out; echo a > $out/file")
b = sh("b", "mkdir $out; echo b > $out/file")
ready = sh("ready", "mkdir $out; echo ready > $out/file")
`)
	out := map[string]string{}
	for _, n := range []string{"a", "b"} {
		out[n] = l.outputs(file + ":" + n)[0]
	}
	out["ready"] = l.ok("build", file+":ready")[0]
	tools, closure := l.source2004()
	given := l.Store + "/0000000000000000000000000000000a-given"
	l.ok("substitute", given, l.derive2004("given", given, tools, closure, "mkdir $out; echo given > $out/file"))
	bin := l.Dir + "/bin"
	for _, name := range []string{"updatedb", "frugal", "trusted"} {
		l.write("bin/"+name, "")
		l.copyFile(need(t, "busybox"), "bin/"+name)
	}
	l.serve("--policy=command:trusted=build", "--policy=command:frugal=cached-only", "--deny-uid=12345")
	events := l.watch()
	run := func(script string) result {
		return l.inShell("PATH=" + bin + ":$PATH; " + script)
	}
	as := func(comm, p string) string { return fmt.Sprintf("(exec -a cat %s/%s %s/file)", bin, comm, p) }
	for _, comm := range []string{"updatedb", "frugal"} {
		if r := run(as(comm, out["a"])); r.status == 0 || !strings.Contains(r.stderr, "Permission denied") {
			t.Errorf("%s: %+v", comm, r)
		}
		if r := run(as(comm, out["ready"])); r.stdout != "ready\n" {
			t.Errorf("%s: %+v", comm, r)
		}
	}
	if os.Getuid() == 0 {
		if r := run("setpriv --reuid 12345 --clear-groups cat " + out["a"] + "/file"); r.status == 0 || !strings.Contains(r.stderr, "Permission denied") {
			t.Errorf("%+v", r)
		}
	}
	if n := events().started(); n != 0 {
		t.Errorf("%d builds started", n)
	}
	// Who was kept from it, and why, can be asked.
	why := strings.Join(l.ok("why", out["a"]), "\n")
	log, _ := os.ReadFile(l.Dir + "/mount.log")
	for _, want := range []string{"updatedb (pid ", ", uid ", ") was denied by the standard policies", "frugal (pid ", ") was denied by command:frugal=cached-only"} {
		if !strings.Contains(why, want) || !strings.Contains(string(log), want) {
			t.Errorf("no %q in %q, or %q", want, why, log)
		}
	}
	if r := run(as("frugal", given)); r.stdout != "given\n" {
		t.Errorf("%+v", r)
	}
	if r := run(as("trusted", out["a"])); r.stdout != "a\n" {
		t.Errorf("%+v", r)
	}
	l.stop()

	// The standard list can be left out, and a policy is before it.
	l.serve("--no-standard-policies", "--policy=all=cached-only")
	if r := run(as("updatedb", out["b"])); r.status == 0 || !strings.Contains(r.stderr, "Permission denied") {
		t.Errorf("%+v", r)
	}
	l.stop()
	l.serve("--no-standard-policies")
	if r := run(as("updatedb", out["b"])); r.stdout != "b\n" {
		t.Errorf("%+v", r)
	}
	l.stop()
	l.fails(2, []string{"build, cached-only and deny"}, "mount", "--policy=all=never")
}

// Who asks for it is told on the terminal, and nobody else.
func TestNoticeOnTerminal(t *testing.T) {
	need(t, "script")
	l := newLab(t)
	body, release := l.held("a", "mkdir $out; echo text > $out/file")
	file := l.star("a.star", body+`
b = sh("b", "sleep 2; mkdir $out; echo text > $out/file")
`)
	a, b := l.outputs(file + ":a")[0], l.outputs(file + ":b")[0]
	l.serve(l.gates())
	shown := l.Dir + "/shown"
	_, done := l.touch("bash", "-c", "STOREFS_NOTIFY=1 script -qec 'cat "+a+"/file' /dev/null </dev/null >"+shown)
	shows := func(text string) func() bool {
		return func() bool {
			b, _ := os.ReadFile(shown)
			return strings.Contains(string(b), text)
		}
	}
	waitFor(t, "a word of what it waits for", shows("storefs: cat waits for a: "))
	release()
	done()
	waitFor(t, "what it reads", shows("text"))
	if r := l.inShell("script -qec 'cat " + b + "/file' /dev/null </dev/null"); strings.TrimSpace(r.stdout) != "text" {
		t.Errorf("%+v", r)
	}
}

func TestJobsPerUser(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test drops from root to an ordinary user")
	}
	l := newLab(t)
	var body strings.Builder
	var releases []func()
	for i := range 4 {
		b, release := l.held(fmt.Sprint("h", i), "mkdir $out; echo > $out/file")
		body.WriteString(b)
		releases = append(releases, release)
	}
	body.WriteString("default = [h0, h1, h2, h3]\n")
	file := l.star("a.star", body.String())
	outs := l.outputs(file)
	l.serve(l.gates(), "-j", "4", "--jobs-per-uid=1")
	var dones []func()
	for i, out := range outs {
		out += "/file"
		argv := []string{"cat", out}
		if i == 3 {
			argv = []string{"setpriv", "--reuid", "12345", "--clear-groups", "cat", out}
		}
		_, done := l.touch(argv...)
		dones = append(dones, done)
		waitFor(t, "it waits", func() bool { return len(l.waiters()) == i+1 })
	}
	var states []string
	waitFor(t, "two builders run", func() bool {
		states = nil
		for _, w := range l.waiters() {
			states = append(states, fmt.Sprint(w.UID, " ", w.State))
		}
		return slices.Equal(states, []string{"0 running", "0 slot", "0 slot", "12345 running"})
	})
	for i, release := range releases {
		release()
		defer dones[i]()
	}
}

// Whoever has touched a path finds it when he lists the store: what the kernel keeps of
// the listing, and of the store directory's times, is dropped before he goes on.
func TestListedOnceTouched(t *testing.T) {
	l := newLab(t)
	const n = 40
	file := l.star("a.star", fmt.Sprintf("all = [sh(\"j%%d\" %% i, \"echo > $out\", kind = \"regular\") for i in range(%d)]\ndefault = sh(\"top\", \"echo > $out\", kind = \"regular\", env = {\"all\": \" \".join([str(j) for j in all])})\n", n))
	drv := l.ok("instantiate", file)[0]
	var outs []string
	for _, d := range l.ok("query", "references", drv) {
		if strings.HasSuffix(d, ".drv") {
			outs = append(outs, l.ok("query", "outputs", d)...)
		}
	}
	if len(outs) != n {
		t.Fatalf("%d outputs", len(outs))
	}
	l.serve()
	times := map[time.Time]bool{}
	for _, o := range outs {
		if _, err := os.ReadFile(o); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(l.Store)
		if err != nil {
			t.Fatal(err)
		}
		if times[st.ModTime()] {
			t.Errorf("%s came, and the store has the same time as before", o)
		}
		times[st.ModTime()] = true
		entries, err := os.ReadDir(l.Store) // which the kernel keeps
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == filepath.Base(o) }) {
			t.Errorf("%s is not listed", o)
		}
	}
}
