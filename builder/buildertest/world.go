// Package buildertest is what every builder has to pass: builds whose builder is
// a shell, honest and hostile, and what must come of them. It knows builders by
// their one method.
package buildertest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"storefs/builder"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// Builder is what is tested.
type Builder interface {
	Build(ctx context.Context, job builder.Job) (*builder.Result, error)
}

// World is a store with a shell in it, and a builder that builds in it.
type World struct {
	T       testing.TB
	Options builder.Options
	Builder Builder
	// Shell is a store object with a busybox, as bin/busybox and by the names
	// of what it can do.
	Shell store.Info
	// Probe is a program for what a shell cannot do.
	Probe store.Info

	open func(t testing.TB, o *builder.Options) Builder
}

// ProbeVariable names, in the environment, a compiled testdata/probe. Without it,
// NewWorld compiles it, which takes longer than most tests.
const ProbeVariable = "STOREFS_TEST_PROBE"

//go:embed testdata/probe/main.go
var probeSource []byte

// CompileProbe makes the program that ProbeVariable names.
func CompileProbe(dir string) (program string, err error) {
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "probe")
	if err := os.WriteFile(source, probeSource, 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile probe: %w\n%s", err, out)
	}
	return program, nil
}

// NewWorld makes a world in temporary directories. open may change the options
// that it is given before it opens a builder with them.
func NewWorld(t testing.TB, open func(t testing.TB, o *builder.Options) Builder) *World {
	t.Helper()
	state := t.TempDir()
	t.Cleanup(func() { Writable(state) })
	w := &World{T: t, open: open, Options: builder.Options{
		Store:  "/gnu/store.d",
		Real:   filepath.Join(state, "real"),
		Builds: filepath.Join(state, "builds"),
		Logs:   filepath.Join(state, "log"),
		Cores:  3,
		System: "x86_64-linux",
	}}
	for _, d := range []string{w.Options.Real, w.Options.Builds, w.Options.Logs} {
		w.must(os.Mkdir(d, 0o755))
	}
	w.Builder = open(t, &w.Options)
	w.Shell = w.Add("busybox", func(p string) {
		busybox := Need(t, "busybox")
		w.must(os.MkdirAll(filepath.Join(p, "bin"), 0o755))
		CopyFile(t, busybox, filepath.Join(p, "bin", "busybox"))
		for _, name := range []string{"sh", "cat", "chmod", "env", "id", "ls", "ln", "mkdir", "mkfifo", "mknod", "rm", "sleep", "stat", "touch", "kill", "yes", "setsid", "hostname", "head", "wc", "ifconfig", "nc", "mount", "grep", "mv", "readlink", "dd", "uname", "sed"} {
			w.must(os.Symlink("busybox", filepath.Join(p, "bin", name)))
		}
	})
	w.Probe = w.Add("probe", func(p string) {
		probe := os.Getenv(ProbeVariable)
		if probe == "" {
			Need(t, "go")
			var err error
			probe, err = CompileProbe(t.TempDir())
			w.must(err)
		}
		CopyFile(t, probe, p)
	})
	return w
}

// Writable gives back the right to remove what is below dir.
func Writable(dir string) {
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
}

// Need finds a program, or skips the test.
func Need(t testing.TB, program string) string {
	t.Helper()
	p, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
	return p
}

// CopyFile copies an executable.
func CopyFile(t testing.TB, from, to string) {
	t.Helper()
	// By another process: one that is started here meanwhile would have the new file open for
	// writing, and nobody could execute it as long as that is so.
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", from, to}, {"chmod", "755", to}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}

func (w *World) must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Path is a store path whose digest follows from its name.
func (w *World) Path(name string) store.Path {
	w.T.Helper()
	p, err := store.MakePath(w.Options.Store, "test", store.HashOf(store.SHA256, []byte(name)), name)
	w.must(err)
	return p
}

// Add puts an object called name into the store, in place of an earlier one: fill
// makes it.
func (w *World) Add(name string, fill func(path string), refs ...store.Path) store.Info {
	w.T.Helper()
	p := w.Path(name)
	real := filepath.Join(w.Options.Real, p.Base())
	Writable(real)
	w.must(os.RemoveAll(real))
	fill(real)
	sum, err := nar.Ingest(w.T.Context(), real, nar.IngestOptions{UID: -1, GID: -1})
	w.must(err)
	slices.Sort(refs)
	return store.Info{Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, References: refs}
}

// AddText puts a file into the store.
func (w *World) AddText(name, text string, refs ...store.Path) store.Info {
	w.T.Helper()
	return w.Add(name, func(p string) { w.must(os.WriteFile(p, []byte(text), 0o644)) }, refs...)
}

// Job is a job called name whose builder runs script; edit, if it is not nil, may
// change it. Its output is $out.
func (w *World) Job(name, script string, edit func(*builder.Job)) builder.Job {
	w.T.Helper()
	d := &storeexpr.Derivation{
		Outputs:  []storeexpr.Output{{Name: "out", Path: w.Path(name)}},
		Sources:  []store.Path{w.Shell.Path, w.Probe.Path},
		Platform: "x86_64-linux",
		Builder:  string(w.Shell.Path) + "/bin/sh",
		Args:     []string{"-c", script},
	}
	job := builder.Job{Drv: w.Path(name + ".drv"), Derivation: d, Inputs: []store.Info{w.Shell, w.Probe}}
	Setenv(d, "PATH", string(w.Shell.Path)+"/bin")
	Setenv(d, "probe", string(w.Probe.Path))
	if edit != nil {
		edit(&job)
	}
	for _, o := range d.Outputs {
		if o.Name != "" {
			Setenv(d, o.Name, string(o.Path))
		}
	}
	return job
}

// Setenv sets a variable of a derivation.
func Setenv(d *storeexpr.Derivation, name, value string) {
	d.Env = slices.DeleteFunc(d.Env, func(v storeexpr.EnvVar) bool { return v.Name == name })
	d.Env = append(d.Env, storeexpr.EnvVar{Name: name, Value: value})
	slices.SortFunc(d.Env, func(a, b storeexpr.EnvVar) int { return strings.Compare(a.Name, b.Name) })
}

// Built builds job, which must succeed, and removes its scratch at the end of
// the test.
func (w *World) Built(job builder.Job) *builder.Result {
	w.T.Helper()
	r, err := w.build(job)
	if err != nil {
		var f *store.Failure
		if errors.As(err, &f) {
			w.T.Fatalf("build:\n%s", f.Text())
		}
		w.T.Fatalf("build: %v", err)
	}
	w.T.Cleanup(r.Release)
	return r
}

// Failed builds job, which must fail.
func (w *World) Failed(job builder.Job) *store.Failure {
	w.T.Helper()
	r, err := w.build(job)
	if err == nil {
		r.Release()
		w.T.Fatal("the build succeeded, and should not have")
	}
	var f *store.Failure
	if !errors.As(err, &f) {
		w.T.Fatalf("%v is no *store.Failure", err)
	}
	if f.Path != job.Drv {
		w.T.Errorf("failure is of %s, want %s", f.Path, job.Drv)
	}
	return f
}

func (w *World) build(job builder.Job) (*builder.Result, error) {
	ctx, cancel := context.WithTimeout(w.T.Context(), 30*time.Second)
	defer cancel()
	return w.Builder.Build(ctx, job)
}

// Text is the content of the only output, which is a file.
func (w *World) Text(r *builder.Result) string {
	w.T.Helper()
	b, err := os.ReadFile(r.Outputs[0].Scratch)
	w.must(err)
	return string(b)
}
