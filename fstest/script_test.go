package fstest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestScripts runs testdata/script: the commands as people type them. Every
// script has a state and a store of its own ($STATE, $STORE), initialised, and
// $WORK/tools/bin/busybox to build with. Where a script says `mount`, it is
// unmounted at its end.
func TestScripts(t *testing.T) {
	busybox := need(t, "busybox")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// The store's names must be the same in every run: they are in
			// what scripts expect only by pattern, but mounts need short paths.
			stateDir, storeDir := env.WorkDir+"/state", env.WorkDir+"/store"
			env.Setenv("STATE", stateDir)
			env.Setenv("STORE", storeDir)
			env.Setenv("STOREFS_STATE", stateDir)
			env.Setenv("PATH", filepath.Dir(binary)+":"+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Defer(func() { _ = unix.Unmount(storeDir, unix.MNT_DETACH) })
			if err := os.MkdirAll(env.WorkDir+"/tools/bin", 0o755); err != nil {
				return err
			}
			if err := os.Mkdir(storeDir, 0o755); err != nil {
				return err
			}
			b, err := os.ReadFile(busybox)
			if err != nil {
				return err
			}
			if err := os.WriteFile(env.WorkDir+"/tools/bin/busybox", b, 0o755); err != nil {
				return err
			}
			for _, n := range []string{"sh", "mkdir", "cat", "sleep", "ln"} {
				if err := os.Symlink("busybox", env.WorkDir+"/tools/bin/"+n); err != nil {
					return err
				}
			}
			return os.WriteFile(env.WorkDir+"/sh.star", []byte(`tools = source("tools")

def sh(name, script, env = {}, **kw):
    return derivation(name = name, builder = tools + "/bin/sh", args = ["-euc", script], env = dict({"PATH": tools + "/bin"}, **env), **kw)
`), 0o644)
		},
	})
}
