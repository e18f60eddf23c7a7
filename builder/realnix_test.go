package builder_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// realNix is a store of a real Nix, which builds in sandboxes. Expressions find a busybox
// beside them.
type realNix struct {
	t                  *testing.T
	dir, state, builds string
	valid              map[string]store.Info // by path, but for what is read of it
}

func newRealNix(t *testing.T) *realNix {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("Nix's sandbox needs root")
	}
	buildertest.Need(t, "nix-store")
	top := t.TempDir()
	n := &realNix{t: t, dir: filepath.Join(top, "store"), builds: filepath.Join(top, "builds"), state: t.TempDir()}
	n.check(os.Mkdir(n.dir, 0o755))
	n.check(os.Mkdir(n.builds, 0o755))
	n.check(os.WriteFile(filepath.Join(n.state, "nix.conf"), []byte("build-users-group =\nsubstituters =\nsandbox = true\nsandbox-fallback = false\ncores = 3\ncompress-build-log = false\nsandbox-paths =\nsystem = x86_64-linux\nsystem-features = benchmark big-parallel nixos-test\n"), 0o644))
	bin := filepath.Join(n.state, "busybox", "bin")
	n.check(os.MkdirAll(bin, 0o755))
	buildertest.CopyFile(t, buildertest.Need(t, "busybox"), filepath.Join(bin, "busybox"))
	n.check(os.Symlink("busybox", filepath.Join(bin, "sh")))
	return n
}

func (n *realNix) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// try runs a command of Nix.
func (n *realNix) try(name string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "NIX_STORE_DIR="+n.dir, "NIX_STATE_DIR="+n.state, "NIX_LOG_DIR="+n.state, "NIX_CONF_DIR="+n.state, "HOME="+n.state, "NIX_REMOTE=")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	return string(out), said.String(), err
}

// run runs one that must succeed, and returns the words that it prints.
func (n *realNix) run(name string, args ...string) []string {
	n.t.Helper()
	out, said, err := n.try(name, args...)
	if err != nil {
		n.t.Fatalf("%s %v: %v\n%s", name, args, err, said)
	}
	return strings.Fields(out)
}

// instantiate returns the derivations of an expression.
func (n *realNix) instantiate(text string) []string {
	n.t.Helper()
	file := filepath.Join(n.state, "default.nix")
	n.check(os.WriteFile(file, []byte(text), 0o644))
	drvs := n.run("nix-instantiate", file)
	for i := range drvs {
		drvs[i], _, _ = strings.Cut(drvs[i], "!") // and an output's name
	}
	return drvs
}

// local is a builder of ours for the same store.
func (n *realNix) local() *builder.Local {
	n.t.Helper()
	l, err := builder.New(builder.Options{Store: store.Dir(n.dir), Real: n.dir, Builds: n.builds, Logs: n.t.TempDir(), System: "x86_64-linux", Cores: 3})
	n.check(err)
	n.t.Cleanup(l.Close)
	return l
}

// make has derivations built. Some may have been, whatever the error.
func (n *realNix) make(drvs []string) error {
	n.t.Helper()
	_, said, err := n.try("nix-store", append([]string{"-r", "-k"}, drvs...)...)
	if err != nil {
		err = fmt.Errorf("nix-store: %w\n%s", err, said)
	}
	n.load()
	return err
}

// load asks Nix for what is valid: for all at once, as each command takes long beside what
// it does.
func (n *realNix) load() {
	n.t.Helper()
	out, said, failed := n.try("nix", "--extra-experimental-features", "nix-command", "path-info", "--all", "--json")
	if failed != nil {
		n.t.Fatalf("%v: %s", failed, said)
	}
	type info struct {
		Path, CA   string
		References []store.Path
	}
	var paths []info
	if strings.HasPrefix(out, "{") { // so it writes them from 2.19 on
		var named map[string]info
		n.check(json.Unmarshal([]byte(out), &named))
		for name, p := range named {
			p.Path = name
			paths = append(paths, p)
		}
	} else {
		n.check(json.Unmarshal([]byte(out), &paths))
	}
	n.valid = make(map[string]store.Info, len(paths))
	for _, p := range paths {
		slices.Sort(p.References)
		n.valid[p.Path] = store.Info{Path: store.Path(p.Path), CA: p.CA, References: p.References}
	}
}

// info is what Nix has by the path p.
func (n *realNix) info(p string) store.Info {
	n.t.Helper()
	i, ok := n.valid[p]
	if !ok {
		n.t.Fatalf("Nix has no %s", p)
	}
	sum, err := nar.HashPath(n.t.Context(), p)
	n.check(err)
	i.Kind, i.NarHash, i.NarSize = sum.Kind, sum.Hash, sum.Size
	return i
}

func (n *realNix) derivation(drv string) *storeexpr.Derivation {
	n.t.Helper()
	text, err := os.ReadFile(drv)
	n.check(err)
	expr, err := storeexpr.Parse(text)
	n.check(err)
	return expr.(*storeexpr.Derivation)
}

// job is one for a derivation whose inputs Nix has made.
func (n *realNix) job(drv string) builder.Job {
	n.t.Helper()
	job := builder.Job{Drv: store.Path(drv), Derivation: n.derivation(drv)}
	found := make(map[string]bool)
	var add func(p string)
	add = func(p string) {
		if found[p] {
			return
		}
		found[p] = true
		in := n.info(p)
		job.Inputs = append(job.Inputs, in)
		for _, r := range in.References {
			add(string(r))
		}
	}
	for _, s := range job.Derivation.Sources {
		add(string(s))
	}
	for _, in := range job.Derivation.Inputs {
		for _, o := range n.derivation(string(in.Path)).Outputs {
			if slices.Contains(in.Outputs, o.Name) {
				add(string(o.Path))
			}
		}
	}
	return job
}

// log is what the log of Nix has of a derivation.
func (n *realNix) log(drv string) string {
	n.t.Helper()
	base := filepath.Base(drv)
	text, err := os.ReadFile(filepath.Join(n.state, "drvs", base[:2], base[2:]))
	n.check(err)
	return string(text)
}

// same builds job, of which Nix has the outputs, and holds what comes to those.
func (n *realNix) same(t *testing.T, l *builder.Local, job builder.Job) *builder.Result {
	t.Helper()
	r, err := l.Build(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Release)
	for _, o := range r.Outputs {
		want := n.info(string(o.Info.Path))
		if o.Info.NarHash != want.NarHash || o.Info.Kind != want.Kind || !slices.Equal(o.Info.References, want.References) {
			diff, _ := exec.Command("diff", "-ru", "--no-dereference", string(o.Info.Path), o.Scratch).Output()
			t.Errorf("output %s: %+v\nof Nix: %+v\n%s", o.Name, o.Info, want, diff)
		}
	}
	return r
}
