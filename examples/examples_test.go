// Package examples tests the examples below it: that they evaluate, that they
// are formatted, and that their builders do what they are meant to.
package examples

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"storefs/instantiate"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

var target = flag.String("gostd.target", "std.internal/sync", "what TestGostdBuilds builds: a target of gostd.star, for instance hello or default")

func generate(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", "./gostd/gen", dir).CombinedOutput(); err != nil {
		t.Fatalf("go run ./gostd/gen: %v\n%s", err, out)
	}
	return dir
}

func evaluate(t testing.TB, dir store.Dir, installable string, args map[string]string) *instantiate.Plan {
	t.Helper()
	file, target, _ := instantiate.SplitTarget(installable)
	plan, err := instantiate.Eval(context.Background(), instantiate.Options{Dir: dir, File: file, Target: target, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func derivations(t testing.TB, p *instantiate.Plan) map[store.Path]*storeexpr.Derivation {
	t.Helper()
	all := map[store.Path]*storeexpr.Derivation{}
	for _, x := range p.Exprs {
		e, err := storeexpr.Parse(x.Text())
		if err != nil {
			t.Fatalf("%s: %v", x.Path, err)
		}
		all[x.Path] = e.(*storeexpr.Derivation)
	}
	return all
}

func gostd(t testing.TB, dir store.Dir, target string) *instantiate.Plan {
	t.Helper()
	return evaluate(t, dir, "gostd/gostd.star:"+target, map[string]string{"gostd": generate(t)})
}

// What gen writes, and what becomes of it, is the same wherever it lies.
func TestGostdEvaluates(t *testing.T) {
	var drvs [2][]store.Path
	for i := range drvs {
		gen := generate(t)
		start := time.Now()
		plan := evaluate(t, "/nix/store", "gostd/gostd.star", map[string]string{"gostd": gen})
		t.Logf("evaluated in %v: %d sources, %d derivations", time.Since(start), len(plan.Sources), len(plan.Exprs))
		if len(plan.Exprs) < 300 || len(plan.Sources) < 300 {
			t.Errorf("%d derivations and %d sources, want more than 300", len(plan.Exprs), len(plan.Sources))
		}
		for _, x := range plan.Exprs {
			drvs[i] = append(drvs[i], x.Path)
			if strings.Contains(string(x.Text()), gen) || strings.Contains(string(x.Text()), "/usr") {
				t.Errorf("%s names a path of this machine:\n%s", x.Path, x.Text())
			}
		}
	}
	if !reflect.DeepEqual(drvs[0], drvs[1]) {
		t.Error("two directories gave different derivations")
	}
}

// A package depends on what it imports and on nothing else: to touch another
// one must not rebuild it.
func TestGostdInputs(t *testing.T) {
	for drv, d := range derivations(t, gostd(t, "/nix/store", "std.errors")) {
		if len(d.Sources) != 2 {
			t.Errorf("%s: its sources are %v, want its own files and the toolchain", drv, d.Sources)
		}
		if drv.Name() == "errors.drv" && len(d.Inputs) != 1 {
			t.Errorf("%s: its inputs are %v, want internal/reflectlite", drv, d.Inputs)
		}
	}
}

// The builders run outside of any sandbox: this is a test of the driver, apart
// from what else can go wrong.
func TestGostdBuilds(t *testing.T) {
	dir := newStore(t)
	plan := gostd(t, dir, *target)
	build(t, plan)
	for _, x := range plan.Targets {
		if x.Path.Name() == "hello" {
			out, err := exec.Command(string(x.Path) + "/bin/hello").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "hello, world") {
				t.Errorf("hello: %v\n%s", err, out)
			}
			continue
		}
		// No name of this machine may be in what was built.
		data, err := os.ReadFile(string(x.Path) + "/package.a")
		if err != nil || strings.Contains(string(data), filepath.Dir(string(dir))) {
			t.Errorf("%s: names a path of the build (%v)", x.Path, err)
		}
	}
}

func TestWordsBuilds(t *testing.T) {
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("/usr/bin/busybox is not there (Debian: busybox-static)")
		}
		t.Skip("/usr/bin/busybox is not there (Debian: busybox-static)")
	}
	plan := evaluate(t, newStore(t), "words/words.star:latest", nil)
	build(t, plan)
	words, err := os.ReadFile(string(plan.Targets[0].Path))
	if err != nil || string(words) != "19\n" {
		t.Errorf("the words are %q (%v), want 19", words, err)
	}
}

// An object is compiled again when its file changed, or one that it includes, and not
// when another one did.
func TestCBuilds(t *testing.T) {
	for _, tool := range []string{"/usr/bin/sh", "/usr/bin/gcc", "/usr/bin/cmp"} {
		if _, err := os.Stat(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir, project := newStore(t), t.TempDir()
	if err := os.CopyFS(project, os.DirFS("c")); err != nil {
		t.Fatal(err)
	}
	roman := project + "/roman.star"
	plan := evaluate(t, dir, roman, nil)
	build(t, plan)
	out, err := exec.Command(string(plan.Targets[0].Path)+"/bin/roman", "3888").Output()
	if err != nil || string(out) != "MMMDCCCLXXXVIII\n" {
		t.Errorf("roman: %q, %v", out, err)
	}

	before := derivations(t, plan)
	for file, want := range map[string][]string{
		"src/main.c":  {"main.o.drv", "roman-test.drv", "roman.drv"},
		"src/table.h": {"roman-test.drv", "roman.drv", "roman.o.drv"},
		"src/roman.h": {"main.o.drv", "roman-test.drv", "roman.drv", "roman.o.drv"},
	} {
		old, err := os.ReadFile(filepath.Join(project, file))
		if err != nil {
			t.Fatal(err)
		}
		write := func(text []byte) {
			if err := os.WriteFile(filepath.Join(project, file), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(append([]byte("/* changed */\n"), old...))
		var changed []string
		for drv := range derivations(t, evaluate(t, dir, roman, nil)) {
			if before[drv] == nil {
				changed = append(changed, drv.Name())
			}
		}
		write(old)
		if slices.Sort(changed); !slices.Equal(changed, want) {
			t.Errorf("%s has %v built again, want %v", file, changed, want)
		}
	}
}

func TestFormatted(t *testing.T) {
	files, err := filepath.Glob("*/*.star")
	if err != nil || len(files) < 6 {
		t.Fatalf("found %v (%v)", files, err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := instantiate.Format(f, src)
		if err != nil || !bytes.Equal(got, src) {
			t.Errorf("%s is not formatted (%v), should be\n%s", f, err, got)
		}
	}
}

func newStore(t *testing.T) store.Dir {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return store.Dir(dir)
}

// build puts what a plan needs into its store directory and runs the builder
// of each derivation when its inputs are done, two at a time.
func build(t *testing.T, plan *instantiate.Plan) {
	t.Helper()
	for _, s := range plan.Sources {
		r, w := io.Pipe()
		go func() { w.CloseWithError(s.Dump(context.Background(), w)) }()
		if err := nar.Restore(r, string(s.Path), nar.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range plan.Texts {
		if err := os.WriteFile(string(x.Path), []byte(x.Content), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	done := map[store.Path]chan struct{}{}
	for _, x := range plan.Exprs {
		done[x.Path] = make(chan struct{})
	}
	drvs := derivations(t, plan)
	slots := make(chan struct{}, 2)
	var g errgroup.Group
	for _, x := range plan.Exprs {
		g.Go(func() error {
			defer close(done[x.Path])
			d := drvs[x.Path]
			for _, in := range d.Inputs {
				<-done[in.Path]
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			work, err := os.MkdirTemp(t.TempDir(), "build")
			if err != nil {
				return err
			}
			cmd := exec.Command(d.Builder, d.Args...)
			cmd.Dir = work
			cmd.Env = []string{"TMPDIR=" + work}
			for _, v := range d.Env {
				cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", x.Path, err, out)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}
