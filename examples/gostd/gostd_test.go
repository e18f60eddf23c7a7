// Package gostd tests the recipes beside it.
package gostd

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"storefs/instantiate"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

var target = flag.String("gostd.target", "std.internal/sync", "what TestBuild builds: a target of gostd.star, for instance hello or default")

func generate(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", "./gen", dir).CombinedOutput(); err != nil {
		t.Fatalf("go run ./gen: %v\n%s", err, out)
	}
	return dir
}

func evaluate(t testing.TB, dir store.Dir, gen, target string) *instantiate.Plan {
	t.Helper()
	plan, err := instantiate.Eval(context.Background(), instantiate.Options{
		Dir: dir, File: "gostd.star", Target: target, Args: map[string]string{"gostd": gen},
	})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func derivations(t testing.TB, p *instantiate.Plan) map[store.Path]*storeexpr.Derivation {
	t.Helper()
	all := map[store.Path]*storeexpr.Derivation{}
	for _, x := range p.Exprs {
		e, err := storeexpr.Parse(x.Text)
		if err != nil {
			t.Fatalf("%s: %v", x.Path, err)
		}
		all[x.Path] = e.(*storeexpr.Derivation)
	}
	return all
}

// What gen writes, and what becomes of it, is the same wherever it lies.
func TestEvaluate(t *testing.T) {
	var drvs [2][]store.Path
	for i := range drvs {
		start := time.Now()
		gen := generate(t)
		generated := time.Now()
		plan := evaluate(t, "/nix/store", gen, "")
		t.Logf("generated in %v, evaluated in %v: %d sources, %d derivations",
			generated.Sub(start), time.Since(generated), len(plan.Sources), len(plan.Exprs))
		if len(plan.Exprs) < 300 || len(plan.Sources) < 300 {
			t.Errorf("%d derivations and %d sources, want more than 300", len(plan.Exprs), len(plan.Sources))
		}
		for _, x := range plan.Exprs {
			drvs[i] = append(drvs[i], x.Path)
			if strings.Contains(string(x.Text), gen) || strings.Contains(string(x.Text), "/usr") {
				t.Errorf("%s names a path of this machine:\n%s", x.Path, x.Text)
			}
		}
	}
	if !reflect.DeepEqual(drvs[0], drvs[1]) {
		t.Error("two directories gave different derivations")
	}
}

// A package depends on what it imports and on nothing else: to touch another
// one must not rebuild it.
func TestInputs(t *testing.T) {
	plan := evaluate(t, "/nix/store", generate(t), "std.errors")
	for drv, d := range derivations(t, plan) {
		if len(d.Sources) != 2 {
			t.Errorf("%s: its sources are %v, want its own files and the toolchain", drv, d.Sources)
		}
		if drv.Name() == "errors.drv" && len(d.Inputs) != 1 {
			t.Errorf("%s: its inputs are %v, want internal/reflectlite", drv, d.Inputs)
		}
	}
}

// TestBuild runs the builders outside of any sandbox, to test the driver
// apart from what else can go wrong.
func TestBuild(t *testing.T) {
	dir := store.Dir(filepath.Join(t.TempDir(), "store"))
	plan := evaluate(t, dir, generate(t), *target)
	if err := os.Mkdir(string(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range plan.Sources {
		r, w := io.Pipe()
		go func() { w.CloseWithError(s.Dump(context.Background(), w)) }()
		if err := nar.Restore(r, string(s.Path), nar.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	build(t, plan)
	t.Logf("built %d derivations in %v", len(plan.Exprs), time.Since(start))
	for _, x := range plan.Targets {
		if base := x.Path.Name(); base == "hello" {
			out, err := exec.Command(string(x.Path) + "/bin/hello").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "hello, world") {
				t.Errorf("hello: %v\n%s", err, out)
			}
			continue
		}
		// No name of this machine may be in what was built.
		data, err := os.ReadFile(string(x.Path) + "/package.a")
		if err != nil || strings.Contains(string(data), string(dir)) || strings.Contains(string(data), os.TempDir()) {
			t.Errorf("%s: names a path of the build (%v)", x.Path, err)
		}
	}
}

// build runs each derivation when its inputs are done, two at a time.
func build(t *testing.T, plan *instantiate.Plan) {
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
