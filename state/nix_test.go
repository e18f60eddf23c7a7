package state

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"storefs/store"
	"storefs/tree"
)

// nix runs the real Nix with a store, a state and a configuration of its own.
type nix struct {
	dir   store.Dir
	state string
	env   []string
}

func newNix(t *testing.T) *nix {
	t.Helper()
	for _, tool := range []string{"nix-store", "nix-instantiate"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed (package nix-bin): %v", tool, err)
			}
			t.Skipf("%s is not installed (package nix-bin): %v", tool, err)
		}
	}
	// Nix refuses a store below a symbolic link.
	top, err := filepath.EvalSymlinks(memoryDir(t))
	if err != nil {
		t.Fatal(err)
	}
	const settings = "build-users-group =\nsubstituters =\nsystem = x86_64-linux\nsandbox = false\n"
	err = os.WriteFile(filepath.Join(top, "nix.conf"), []byte(settings), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	n := &nix{dir: store.Dir(filepath.Join(top, "store")), state: filepath.Join(top, "state")}
	n.env = append(os.Environ(), "HOME="+top, "NIX_REMOTE=local", "NIX_CONF_DIR="+top,
		"NIX_STORE_DIR="+string(n.dir), "NIX_STATE_DIR="+n.state, "NIX_LOG_DIR="+filepath.Join(top, "log"))
	return n
}

func (n *nix) output(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = n.env
	c.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.String())
	}
	return out
}

func (n *nix) paths(t *testing.T, name string, args ...string) []store.Path {
	t.Helper()
	var out []store.Path
	for _, s := range strings.Fields(string(n.output(t, nil, name, args...))) {
		out = append(out, must(n.dir.Parse(s))(t))
	}
	return out
}

// graph has a source of each kind, a text with a reference, fixed outputs of
// both kinds, several outputs, and outputs that refer to each other and to
// themselves.
const graph = `
let
  drv = args: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // args);
  fixed = drv { name = "fixed"; args = [ "-c" "printf hello > $out" ];
    outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "hello"; };
  tree = drv { name = "tree"; args = [ "-c" "printf hello > $out" ];
    outputHashMode = "recursive"; outputHashAlgo = "sha1"; outputHash = "HASH"; };
  note = builtins.toFile "note" "see ${./file}";
  lib = drv { name = "lib"; outputs = [ "out" "dev" ]; inherit fixed tree note;
    args = [ "-c" "echo $fixed $note $out > $out; read x < ${./dir}/inner; echo $x $out > $dev" ]; };
in drv { name = "top"; args = [ "-c" "echo ${lib} ${lib.dev} $out > $out" ]; }
`

// A closure that the real Nix exported is imported with the hashes, sizes and
// references that Nix has; what is exported again, Nix takes; and a derivation
// is imported from Nix's store itself.
func TestNix(t *testing.T) {
	ctx := context.Background()
	n := newNix(t)
	src := memoryDir(t)
	for name, text := range map[string]string{"file": "a file\n", "dir/inner": "inside\n", "default.nix": graph} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		hello := archive(t, false, "hello")
		text = strings.ReplaceAll(text, "HASH", store.HashOf(store.SHA1, hello).Base16())
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	drv := n.paths(t, "nix-instantiate", filepath.Join(src, "default.nix"))[0]
	n.output(t, nil, "nix-store", "--realise", string(drv))
	all := n.paths(t, "nix-store", "--query", "--requisites", "--include-outputs", string(drv))
	args := []string{"--export"}
	for _, p := range all {
		args = append(args, string(p))
	}
	stream := n.output(t, nil, "nix-store", args...)

	dir := filepath.Join(memoryDir(t), "state")
	if err := Init(dir, n.dir); err != nil {
		t.Fatal(err)
	}
	s := openState(t, dir)
	must(s.Import(ctx, bytes.NewReader(stream)))(t)
	for _, p := range all {
		info := must(s.DB().Info(p))(t)
		if hash := strings.TrimSpace(string(n.output(t, nil, "nix-store", "--query", "--hash", string(p)))); hash != info.NarHash.String() {
			t.Errorf("%s: NAR hash %s, Nix has %s", p, info.NarHash, hash)
		}
		if size := strings.TrimSpace(string(n.output(t, nil, "nix-store", "--query", "--size", string(p)))); size != strconv.FormatInt(info.NarSize, 10) {
			t.Errorf("%s: NAR size %d, Nix has %s", p, info.NarSize, size)
		}
		refs := n.paths(t, "nix-store", "--query", "--references", string(p))
		slices.Sort(refs)
		if !slices.Equal(refs, info.References) {
			t.Errorf("%s: references %v, Nix has %v", p, info.References, refs)
		}
		if fixed := info.CA != ""; !fixed && info.Deriver == "" {
			t.Errorf("%s: neither its content nor a deriver gives its name", p)
		}
	}
	verified(t, s)

	// Only the derivation and its sources, from beside it.
	if err := Init(dir+"2", n.dir); err != nil {
		t.Fatal(err)
	}
	beside := openState(t, dir+"2")
	if got := must(beside.ImportExprs(ctx, []string{string(drv)}))(t); got[0] != drv {
		t.Errorf("imported %s, want %s", got[0], drv)
	}
	for _, p := range n.paths(t, "nix-store", "--query", "--requisites", string(drv)) {
		a, err := beside.DB().Info(p)
		if err != nil {
			t.Error(err)
			continue
		}
		b := must(s.DB().Info(p))(t)
		if a.NarHash != b.NarHash || !slices.Equal(a.References, b.References) || a.CA != b.CA {
			t.Errorf("from a file: %+v, from the stream: %+v", a, b)
		}
	}

	// Back to a Nix that has nothing.
	var again bytes.Buffer
	if err := s.Export(ctx, &again, all); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tree.RemoveAll(string(n.dir)), tree.RemoveAll(n.state)); err != nil {
		t.Fatal(err)
	}
	n.output(t, again.Bytes(), "nix-store", "--import")
	n.output(t, nil, "nix-store", "--verify", "--check-contents")
	if !bytes.Equal(n.output(t, nil, "nix-store", args...), stream) {
		t.Error("Nix exports something else than it did")
	}
}
