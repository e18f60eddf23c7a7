package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nixLab is a store of a real Nix: objects where ours are, the database on
// disk, as ours.
type nixLab struct{ store, state string }

func (b *bench) newNixLab(name string) (*nixLab, error) {
	n := &nixLab{store: filepath.Join(b.fast, name+"-nix-store"), state: filepath.Join(b.dir, name+"-nix-state")}
	for _, d := range []string{n.store, n.state} {
		removeAll(d)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	conf := "build-users-group =\nsubstituters =\nsandbox = true\nsandbox-fallback = false\nsandbox-paths =\n"
	return n, os.WriteFile(filepath.Join(n.state, "nix.conf"), []byte(conf), 0o644)
}

func (n *nixLab) env() []string {
	return []string{
		"NIX_STORE_DIR=" + n.store, "NIX_STATE_DIR=" + n.state, "NIX_LOG_DIR=" + n.state,
		"NIX_CONF_DIR=" + n.state, "HOME=" + n.state, "NIX_REMOTE=",
	}
}

// instantiate gives the derivation that file evaluates to.
func (n *nixLab) instantiate(file string) (string, error) {
	cmd := exec.Command("nix-instantiate", file)
	cmd.Env = append(os.Environ(), n.env()...)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func (n *nixLab) build(drv string) error { return do("/", n.env(), "nix-store", "-r", "-j2", drv) }

func haveNix() bool {
	_, err := exec.LookPath("nix-store")
	return err == nil && os.Geteuid() == 0
}
