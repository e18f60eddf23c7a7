package store

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nix runs the real Nix with a store, a state and a configuration of its own.
type nix struct {
	top string // for other files
	dir Dir
	env []string
}

func newNix(t *testing.T) *nix {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("nix-store is not installed (package nix-bin): %v", err)
		}
		t.Skipf("nix-store is not installed (package nix-bin): %v", err)
	}
	// Nix refuses a store below a symbolic link.
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := &nix{top: top, dir: Dir(filepath.Join(top, "store"))}
	n.write(t, "nix.conf", "build-users-group =\nsubstituters =\nexperimental-features = nix-command ca-derivations\n")
	n.env = append(os.Environ(),
		"HOME="+top,
		"NIX_REMOTE=local",
		"NIX_STORE_DIR="+string(n.dir),
		"NIX_STATE_DIR="+filepath.Join(top, "state"),
		"NIX_LOG_DIR="+filepath.Join(top, "log"),
		"NIX_CONF_DIR="+top,
	)
	return n
}

// write makes a file and returns its path.
func (n *nix) write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(n.top, name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// try returns what the command writes to stdout, and whether it succeeds.
func (n *nix) try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = n.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Logf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// run is try for commands that must succeed.
func (n *nix) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := n.try(t, name, args...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// eval evaluates an expression of the Nix language that is a string, and adds
// to the store what it says.
func (n *nix) eval(t *testing.T, expr string) string {
	t.Helper()
	return strings.Trim(n.run(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", expr), `"`)
}
