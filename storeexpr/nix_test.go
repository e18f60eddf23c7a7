package storeexpr

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"storefs/store"
)

// nix runs the real Nix with a store, a state and a configuration of its own.
type nix struct {
	dir store.Dir
	env []string
}

func newNix(t *testing.T) *nix {
	t.Helper()
	if _, err := exec.LookPath("nix-instantiate"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("nix-instantiate is not installed (package nix-bin): %v", err)
		}
		t.Skipf("nix-instantiate is not installed (package nix-bin): %v", err)
	}
	// Nix refuses a store below a symbolic link.
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(top, "conf")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	const settings = "build-users-group =\nsubstituters =\nsandbox = false\nexperimental-features = nix-command ca-derivations impure-derivations\n"
	if err := os.WriteFile(filepath.Join(conf, "nix.conf"), []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	n := &nix{dir: store.Dir(filepath.Join(top, "store"))}
	n.env = append(os.Environ(),
		"HOME="+top,
		"NIX_REMOTE=local",
		"NIX_STORE_DIR="+string(n.dir),
		"NIX_STATE_DIR="+filepath.Join(top, "state"),
		"NIX_LOG_DIR="+filepath.Join(top, "log"),
		"NIX_CONF_DIR="+conf,
	)
	return n
}

// run returns what the command writes to stdout, by lines.
func (n *nix) run(t *testing.T, name string, args ...string) []string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = n.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.String())
	}
	return strings.Fields(string(out))
}

// instantiate evaluates an expression of the Nix language and returns the paths
// of the derivations that it gives.
func (n *nix) instantiate(t *testing.T, expr string) []store.Path {
	t.Helper()
	file := filepath.Join(t.TempDir(), "default.nix")
	if err := os.WriteFile(file, []byte(expr), 0o644); err != nil {
		t.Fatal(err)
	}
	var paths []store.Path
	for _, s := range n.run(t, "nix-instantiate", file) {
		s, _, _ = strings.Cut(s, "!") // DRV!OUTPUT, where the first output is not "out"
		p, err := n.dir.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// derivations reads all derivations that are in the store.
func (n *nix) derivations(t *testing.T) map[store.Path][]byte {
	t.Helper()
	files, err := filepath.Glob(string(n.dir) + "/*.drv")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[store.Path][]byte)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[store.Path(f)] = text
	}
	return texts
}

// real is a set of parsed derivations with what stands for each of them.
type real struct {
	drvs   map[store.Path]*Derivation
	modulo map[store.Path]Modulo
}

func readReal(t *testing.T, texts map[store.Path][]byte) *real {
	t.Helper()
	r := &real{make(map[store.Path]*Derivation), make(map[store.Path]Modulo)}
	for p, text := range texts {
		e, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", p, err, text)
		}
		d, ok := e.(*Derivation)
		if !ok {
			t.Fatalf("%s is a %T", p, e)
		}
		r.drvs[p] = d
	}
	return r
}

// inputs resolves recursively, as a caller with shallow graphs may.
func (r *real) inputs(p store.Path) (Modulo, error) {
	if m, ok := r.modulo[p]; ok {
		return m, nil
	}
	d, ok := r.drvs[p]
	if !ok {
		return nil, store.ErrUnknown
	}
	m, err := d.HashModulo(r.inputs)
	r.modulo[p] = m
	return m, err
}

// nameOf is what the derivation at drv is called.
func nameOf(drv store.Path) string { return strings.TrimSuffix(drv.Name(), ".drv") }
