package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"storefs/builder"
	"storefs/instantiate"
	"storefs/store"
)

func TestMain(m *testing.M) {
	builder.Child() // the tests that own a state build, too
	os.Exit(m.Run())
}

func failure(c store.Cause) *store.Failure {
	return &store.Failure{Path: "/s/00000000000000000000000000000000-x.drv", Cause: c, Message: "it " + string(c)}
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{store.ErrUnknown, 1},
		{fmt.Errorf("x: %w", store.ErrNotValid), 1},
		{store.ErrInUse, 1},
		{badInputf("x"), 2},
		{&kong.ParseError{}, 2},
		{&instantiate.Error{Msg: "x"}, 2},
		{fmt.Errorf("x: %w", store.ErrBadPath), 2},
		{fmt.Errorf("x: %w", store.ErrBadExpr), 2},
		{fmt.Errorf("x: %w", store.ErrBadArchive), 2},
		{failure(store.CauseBuilder), 100},
		{failure(store.CauseLog), 1}, // as in Nix
		{failure(store.CauseTimeout), 101},
		{failure(store.CauseHash), 102},
		{failure(store.CauseDeterminism), 104},
		{failure(store.CauseRefused), 1},
		{failure(store.CauseExpr), 1},
		{failure(store.CauseUnknown), 1},
		{errors.Join(failure(store.CauseBuilder), failure(store.CauseHash)), 102},
		{errors.Join(failure(store.CauseTimeout), failure(store.CauseHash)), 103},
		{errors.Join(failure(store.CauseBuilder), failure(store.CauseTimeout), failure(store.CauseHash), failure(store.CauseDeterminism)), 111},
		{errors.Join(failure(store.CauseBuilder), failure(store.CauseRefused)), 100},
		{&buildError{error: errors.New("x"), failures: []*store.Failure{failure(store.CauseBuilder), failure(store.CauseDeterminism)}}, 108},
		{fmt.Errorf("%w: %w", errInterrupted, failure(store.CauseCancelled)), 130},
		{fmt.Errorf("%w: %w", errInterrupted, store.ErrBadPath), 130},
	}
	for _, tt := range tests {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}

// capture is an app whose outputs are files.
func capture(t *testing.T) (a *app, stdout, stderr func() string) {
	t.Helper()
	file := func(name string) (*os.File, func() string) {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, func() string {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	a = &app{soft: t.Context(), hard: t.Context(), stdin: os.Stdin}
	a.stdout, stdout = file("stdout")
	a.stderr, stderr = file("stderr")
	return a, stdout, stderr
}

func TestReport(t *testing.T) {
	f := failure(store.CauseBuilder)
	f.Builder, f.Log, f.Kept = "/bin/sh", []string{"compiling", "\x1b[31merror\x1b[0m"}, "/state/builds/7"
	f.Chain = []store.Path{"/s/00000000000000000000000000000000-top.drv", f.Path}
	tests := []struct {
		err  error
		want string
	}{
		{errors.New("open x: no such file"), "storefs: open x: no such file\n"},
		{errors.New("x.star:1:2: no such thing\ncalled from:\n  x.star:9:9"), "storefs: x.star:1:2: no such thing\ncalled from:\n  x.star:9:9\n"},
		{fmt.Errorf("%w: x", errInterrupted), "storefs: interrupted\n"},
		{&quietError{errors.New("x")}, ""},
		{failure(store.CauseRefused), "storefs: realise /s/00000000000000000000000000000000-x.drv: it refused\n"},
		{&buildError{error: errors.New("x"), failures: []*store.Failure{f}}, `storefs: realise /s/00000000000000000000000000000000-x.drv: it builder (needed by /s/00000000000000000000000000000000-top.drv)
  compiling
  error
  kept: /state/builds/7
  the whole story: storefs why /s/00000000000000000000000000000000-x.drv
`},
	}
	for _, tt := range tests {
		a, _, stderr := capture(t)
		a.report(tt.err)
		if d := cmp.Diff(tt.want, stderr()); d != "" {
			t.Error(d)
		}
	}
}

func TestByteCount(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1 << 10: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1<<20 - 100: "1023.9 KiB", 5 << 40: "5.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := byteCount(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]size{"0": 0, "17": 17, "64K": 64 << 10, "10m": 10 << 20, "1G": 1 << 30} {
		var s size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want {
			t.Errorf("%q: %d, %v", in, s, err)
		}
	}
	for _, in := range []string{"", "K", "-1", "1T", "1KK", "9223372036854775807K", "1.5M"} {
		var s size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q was taken for %d", in, s)
		}
	}
}

func TestSandboxPaths(t *testing.T) {
	got, err := sandboxFlags{SandboxPath: []string{"/etc", "/in=/out=side"}}.paths()
	want := []builder.SandboxPath{{Inside: "/etc", Outside: "/etc"}, {Inside: "/in", Outside: "/out=side"}}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"etc", "/in=out", "=/out"} {
		if _, err := (sandboxFlags{SandboxPath: []string{bad}}).paths(); exitStatus(err) != statusUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestConfig: flags win over the environment, that over a file, that over the
// default.
func TestConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.toml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The error of a state that does not exist tells which one was meant.
	state := func(args ...string) string {
		t.Helper()
		a, _, _ := capture(t)
		err := a.run(t.Context(), append(args, "query", "roots"))
		if err == nil {
			t.Fatal("no error")
		}
		return err.Error()
	}
	expect := func(got, want string) {
		t.Helper()
		if !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %s", got, want)
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	os.Unsetenv("STOREFS_STATE")
	write(`state = "` + dir + `/of-file"`)
	expect(state("--config", file), dir+"/of-file")
	if err := os.WriteFile(filepath.Join(dir, "storefs.toml"), []byte(`state = "`+dir+`/of-user"`), 0o644); err != nil {
		t.Fatal(err)
	}
	expect(state(), dir+"/of-user")
	t.Setenv("STOREFS_STATE", dir+"/of-env")
	expect(state("--config", file), dir+"/of-env")
	expect(state("--config", file, "--state", dir+"/of-flag"), dir+"/of-flag")
	write("bogus = 1\n")
	a, _, _ := capture(t)
	if err := a.run(t.Context(), []string{"--config", file, "query", "roots"}); exitStatus(err) != statusUsage || !strings.Contains(err.Error(), "bogus") {
		t.Errorf("unknown key: %v", err)
	}
	for text, wants := range map[string]string{"bogus = 1\n": "bogus", "a:b\n": "(1, 1)"} {
		write(text)
		a, _, _ := capture(t)
		if err := a.run(t.Context(), []string{"--config", file, "query", "roots"}); exitStatus(err) != statusUsage || !strings.Contains(err.Error(), file+": ") || !strings.Contains(err.Error(), wants) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestHelp renders the help of every command.
func TestHelp(t *testing.T) {
	var c cli
	model, err := kong.New(&c, kong.Vars{"state": "", "jobs": "", "allow_other": "false"}, kong.ExplicitGroups(groups()))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = kong.Visit(model.Model, func(v kong.Visitable, next kong.Next) error {
		if node, ok := v.(*kong.Node); ok && node.Type == kong.CommandNode {
			n++
			if node.Help == "" {
				t.Errorf("%s has no help", node.FullPath())
			}
			for _, f := range node.Flags {
				if f.Help == "" {
					t.Errorf("%s --%s has no help", node.FullPath(), f.Name)
				}
			}
		}
		return next(nil)
	})
	if err != nil || n < 25 {
		t.Errorf("%d commands: %v", n, err)
	}
}

func TestDefaultState(t *testing.T) {
	if os.Geteuid() == 0 {
		if got := defaultState(); got != "/var/lib/storefs" {
			t.Error(got)
		}
		return
	}
	t.Setenv("XDG_STATE_HOME", "/x")
	if got := defaultState(); got != "/x/storefs" {
		t.Error(got)
	}
}

// newState makes a state whose commands a runs.
func newState(t *testing.T) (run func(args ...string) (string, error)) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	run = func(args ...string) (string, error) {
		a, stdout, _ := capture(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := a.run(ctx, append([]string{"--state", dir + "/state"}, args...))
		return stdout(), err
	}
	if _, err := run("init", "--store", dir+"/store"); err != nil {
		t.Fatal(err)
	}
	return run
}

func TestInstallables(t *testing.T) {
	run := newState(t)
	dir := t.TempDir()
	star := filepath.Join(dir, "x.star")
	err := os.WriteFile(star, []byte(`
a = derivation(name = "a", builder = "/bin/sh", outputs = ["out", "dev"], env = {"v": arg("v", "1")})
src = text("t", "content")
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	drv, err := run("instantiate", star+":a")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := run("instantiate", star+":a", "--arg", "v=a=b;c"); err != nil || other == drv {
		t.Errorf("--arg changed nothing: %q %v", other, err)
	}
	outs, err := run("query", "outputs", strings.TrimSpace(drv))
	if err != nil || strings.Count(outs, "\n") != 2 {
		t.Fatalf("%q %v", outs, err)
	}
	if same, err := run("query", "outputs", star+":a"); err != nil || same != outs {
		t.Errorf("%q %v", same, err)
	}
	src, err := run("query", "references", star+":src")
	if err != nil || src != "" {
		t.Errorf("%q %v", src, err)
	}
	plan, err := run("build", "--dry-run", star+":a.dev")
	if err != nil || plan != "build "+drv {
		t.Errorf("%q %v", plan, err)
	}
	// A text is valid as soon as it is named.
	built, err := run("build", star+":src")
	if err != nil || !strings.HasSuffix(built, "-t\n") {
		t.Errorf("%q %v", built, err)
	}
	below, err := run("build", strings.TrimSpace(built)+"/below/it", star+":src")
	if below != built || exitStatus(err) != statusRefused || !strings.Contains(err.Error(), "-t/below/it: not a directory") {
		t.Errorf("%q %v", below, err)
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/elsewhere", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	added, err := run("add", tree)
	if err != nil {
		t.Fatal(err)
	}
	for name, exists := range map[string]bool{"/link": true, "/link/there": true, "/nothing": false} {
		p := strings.TrimSpace(added) + name
		if below, err := run("build", p); exists && below != p+"\n" || exists != (err == nil) {
			t.Errorf("%s: %q %v", name, below, err)
		}
	}
	for _, args := range [][]string{
		{"build", "--arg", "w=1", star},
		{"build", "/elsewhere"},
		{"build", filepath.Join(dir, "missing.star")},
		{"build", filepath.Join(dir, "missing.drv")},
		{"build", star + ":missing"},
		{"substitute", strings.TrimSpace(built), star + ":src"},
		{"add", filepath.Join(dir, "missing")},
		{"add", "--name", "x", dir, star},
	} {
		if _, err := run(args...); exitStatus(err) != statusUsage {
			t.Errorf("%v: status %d: %v", args, exitStatus(err), err)
		}
	}
}

func TestAddDumpHash(t *testing.T) {
	run := newState(t)
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub/file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	added, err := run("add", dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := run("add", "--name", "tree", dir)
	if err != nil || again != added {
		t.Errorf("%q %q %v", added, again, err)
	}
	p := strings.TrimSpace(added)
	outside, err := run("hash", dir)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := run("hash", p) // it is not mounted
	if err != nil || inside != outside {
		t.Errorf("%q, want %q: %v", inside, outside, err)
	}
	archive, err := run("dump", p+"/sub/file")
	if err != nil || !strings.HasPrefix(archive, "\r\x00\x00\x00\x00\x00\x00\x00nix-archive-1") || !strings.Contains(archive, "content") {
		t.Errorf("%q %v", archive, err)
	}
	info, err := run("query", "info", p)
	if err != nil || !strings.Contains(info, "nar-hash: "+strings.TrimSpace(inside)) {
		t.Errorf("%s %v", info, err)
	}
	flat, err := run("hash", "--flat", "--base16", filepath.Join(dir, "sub/file"))
	if want := store.HashOf(store.SHA256, []byte("content")).Base16() + "\n"; err != nil || flat != want {
		t.Errorf("%q, want %q: %v", flat, want, err)
	}
	if deleted, err := run("delete", p); err != nil || deleted != added {
		t.Errorf("%q %v", deleted, err)
	}
	if _, err := run("query", "info", p); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("after delete: %v", err)
	}
}

// Very many targets, each named twice, take no longer than so many should.
func TestManyTargets(t *testing.T) {
	const n = 200_000
	all := make([]store.Path, 2*n)
	for i := range all {
		all[i] = store.Path(fmt.Sprintf("/nix/store/%032d-x.drv", i%n))
	}
	begin := time.Now()
	if got := unique(all); !slices.Equal(got, all[:n]) {
		t.Errorf("%d paths, want the first %d", len(got), n)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
