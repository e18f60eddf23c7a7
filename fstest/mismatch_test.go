package fstest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"storefs/store"
)

var mismatch = regexp.MustCompile(`hash mismatch in fixed output: want \S+ got (\S+); what came is kept at (\S+)`)

// mismatched is what a failure says of a fixed output that has another hash.
func (l *lab) mismatched(text string) (hash, kept string) {
	l.t.Helper()
	m := mismatch.FindStringSubmatch(text)
	if m == nil {
		l.t.Fatalf("no mismatch, of which something is kept, in %q", text)
	}
	return m[1], m[2]
}

func zero(a store.Algo) string {
	return store.Hash{Algo: a, Sum: strings.Repeat("\x00", a.Size())}.SRI()
}

// What was fetched with another hash than promised is not fetched again by whoever
// corrects the hash: the mount shows it as it shows anything else.
func TestMismatchIsKept(t *testing.T) {
	l := newLab(t)
	server := l.Dir + "/server"
	if err := os.MkdirAll(server, 0o755); err != nil {
		t.Fatal(err)
	}
	l.write("server/file", "from the network\n")
	// A directory and a file; what uses them is built in both cases.
	body := func(tree, flat string) string {
		return fmt.Sprintf(`
tree = sh("tree", "mkdir $out; cat /server/file > $out/file", hash = %q, hash_mode = "recursive")
flat = sh("flat", "cat /server/file > $out", kind = "regular", hash = %q, hash_mode = "flat")
default = sh("both", "cat $tree/file $flat > $out", kind = "regular", env = {"tree": tree, "flat": flat})
`, tree, flat)
	}
	file := l.star("a.star", body(zero(store.SHA512), zero(store.SHA1)))
	l.serve("--failure-ttl=1h", "--sandbox-path=/server="+server)
	events := l.watch()

	hashes := map[string]string{}
	for _, name := range []string{"tree", "flat"} {
		out := l.outputs(file + ":" + name)[0]
		before := len(l.list())
		file := map[string]string{"tree": "/file"}[name]
		if _, err := os.ReadFile(out + file); errno(err) != syscall.EIO {
			t.Fatalf("%s: %v, want EIO", name, err)
		}
		hash, kept := l.mismatched(strings.Join(l.ok("why", out), "\n"))
		hashes[name] = hash
		if names := l.list(); !slices.Contains(names, filepath.Base(kept)) || len(names) != before+1 {
			t.Errorf("%s: %s is not listed: %v", name, kept, names)
		}
		if b, err := os.ReadFile(kept + file); err != nil || string(b) != "from the network\n" {
			t.Errorf("read %s: %q, %v", kept+file, b, err)
		}
	}

	// The network is gone; only the hashes are corrected.
	if err := os.Remove(server + "/file"); err != nil {
		t.Fatal(err)
	}
	file = l.star("a.star", body(hashes["tree"], hashes["flat"]))
	both := l.outputs(file)[0]
	if b, err := os.ReadFile(both); err != nil || string(b) != strings.Repeat("from the network\n", 2) {
		t.Errorf("what needs both: %q, %v", b, err)
	}
	var res struct {
		Counts struct{ Built, CutOff, Reused int }
	}
	out := strings.Join(l.ok("build", "--json", file+":tree", file+":flat"), "\n")
	if err := json.Unmarshal([]byte(out), &res); err != nil || res.Counts.Built != 0 {
		t.Errorf("%v: %s", err, out)
	}
	waitFor(t, "the end of both", func() bool { return events().count("done", "both") > 0 })
	for _, name := range []string{"tree", "flat"} {
		if n := events().count("started", name); n != 1 {
			t.Errorf("the builder of %s ran %d times", name, n)
		}
	}
	l.ok("verify", "--check-contents")
}

// list is what the mount shows in its root.
func (l *lab) list() []string {
	l.t.Helper()
	entries, err := os.ReadDir(l.Store)
	if err != nil {
		l.t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// A check changes nothing. A repair that gets something else keeps that, as in Nix, and
// leaves what is damaged as it is.
func TestMismatchOfCheckAndRepair(t *testing.T) {
	l := newLab(t)
	server := l.Dir + "/server"
	if err := os.MkdirAll(server, 0o755); err != nil {
		t.Fatal(err)
	}
	l.serve("--sandbox-path=/server=" + server)
	l.write("server/file", "first\n")
	body := `default = sh("f", "cat /server/file > $out", kind = "regular", hash = %q, hash_mode = "flat")`
	file := l.star("a.star", fmt.Sprintf(body, store.HashOf(store.SHA256, []byte("first\n")).SRI()))
	out := l.ok("build", file)[0]

	l.write("server/file", "second\n")
	r := l.fails(102, []string{"hash mismatch"}, "build", "--check", file)
	if strings.Contains(r.stderr, "kept at") {
		t.Errorf("check: %s", r.stderr)
	}
	want, err := store.FixedPath(store.Dir(l.Store), false, store.HashOf(store.SHA256, []byte("second\n")), "f", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(l.real(string(want))); !os.IsNotExist(err) {
		t.Errorf("the check left %s: %v", want, err)
	}

	l.tamper(out, flipByte(0))
	r = l.fails(1, []string{"1 problem"}, "verify", "--check-contents", "--repair")
	hash, kept := l.mismatched(r.stdout + r.stderr)
	if kept != string(want) {
		t.Errorf("the repair kept %s, want %s", kept, want)
	}
	l.write("server/file", "third\n")
	if got := l.ok("build", l.star("a.star", fmt.Sprintf(body, hash))); !slices.Equal(got, []string{kept}) {
		t.Errorf("built %v, want %s", got, kept)
	}
	if b, err := os.ReadFile(l.real(kept)); err != nil || string(b) != "second\n" {
		t.Errorf("%s: %q, %v", kept, b, err)
	}
}
