package instantiate

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"storefs/store"
)

// nix runs a Nix program on a store of its own below dir.
func nix(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed (Debian: nix-bin)", args[0])
		}
		t.Skipf("%s is not installed (Debian: nix-bin)", args[0])
	}
	conf := filepath.Join(dir, "conf")
	writeFiles(t, conf, map[string]string{"nix.conf": "build-users-group =\nsubstituters =\n"})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "NIX_STORE_DIR="+filepath.Join(dir, "store"), "NIX_STATE_DIR="+filepath.Join(dir, "var"),
		"NIX_LOG_DIR="+filepath.Join(dir, "log"), "NIX_CONF_DIR="+conf, "NIX_REMOTE=", "HOME="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// writeFiles makes files below dir. Content that begins with "->" is the
// target of a link; "#!" makes an executable.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, p)
		} else if strings.HasPrefix(content, "#!") {
			err = os.WriteFile(p, []byte(content), 0o755)
		} else {
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tempDir has no links in its path: Nix wants that of its store.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The two files in testdata/nix say the same: once for Nix, once in Starlark.
// Every byte that Nix puts into its store must be what a plan would.
func TestSameAsNix(t *testing.T) {
	dir := tempDir(t)
	writeFiles(t, dir, map[string]string{
		"src/a.txt": "hi\n", "src/run": "#!/bin/sh\n", "src/l": "->a.txt", "src/sub/b.c": "x\n",
		"src/sub.c": "sorts before sub/\n", "src/empty": "", "src/eight": "12345678",
	})
	copyFile(t, "testdata/nix/same.nix", filepath.Join(dir, "same.nix"))
	copyFile(t, "testdata/nix/same.star", filepath.Join(dir, "same.star"))
	drv := nix(t, dir, "nix-instantiate", filepath.Join(dir, "same.nix"))

	plan, err := Eval(context.Background(), Options{
		Dir: store.Dir(filepath.Join(dir, "store")), System: "x86_64-linux", File: filepath.Join(dir, "same.star"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(plan.Targets[0].Drv); got != drv {
		t.Errorf("target is %s, Nix has %s", got, drv)
	}
	want := map[string]bool{}
	for _, x := range plan.Exprs {
		want[x.Path.Base()] = true
		if have, err := os.ReadFile(string(x.Path)); err != nil || !bytes.Equal(have, x.Text()) {
			t.Errorf("%s: Nix has (%v)\n%s\nthe plan\n%s", x.Path, err, have, x.Text())
		}
	}
	for _, x := range plan.Texts {
		want[x.Path.Base()] = true
		if have, err := os.ReadFile(string(x.Path)); err != nil || string(have) != x.Content {
			t.Errorf("%s: Nix has (%v) %q, the plan %q", x.Path, err, have, x.Content)
		}
	}
	for _, x := range plan.Sources {
		want[x.Path.Base()] = true
		var nar bytes.Buffer
		if err := x.Dump(context.Background(), &nar); err != nil {
			t.Error(err)
		}
		if have := nix(t, dir, "nix-store", "--dump", string(x.Path)); have != strings.TrimSpace(nar.String()) {
			t.Errorf("%s: its NAR is not the one that Nix makes", x.Path)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !want[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
			t.Errorf("Nix has %s, the plan does not", e.Name())
		}
		delete(want, e.Name())
	}
	for name := range want {
		t.Errorf("the plan has %s, Nix does not", name)
	}
}

// A filter leaves out what Nix's own filter, told the same, leaves out.
func TestFilteredSourceSameAsNix(t *testing.T) {
	dir := tempDir(t)
	writeFiles(t, dir, map[string]string{
		"src/a.go": "a", "src/a_test.go": "t", "src/deep/er/b.go": "b", "src/deep/er/c.txt": "c", "src/other/d.txt": "d",
		"f.star": `default = source("src", name = "filtered", include = ["**/*.go"], exclude = ["**/*_test.go"])`,
		"f.nix": `"${builtins.path { path = ./src; name = "filtered"; filter = p: type:
			let b = baseNameOf p; in if type == "directory" then b != "other"
			else builtins.match ".*[.]go" b != null && builtins.match ".*_test[.]go" b == null; }}"`,
	})
	have := nix(t, dir, "nix-instantiate", "--eval", "--json", filepath.Join(dir, "f.nix"))
	plan, err := Eval(context.Background(), Options{Dir: store.Dir(filepath.Join(dir, "store")), File: filepath.Join(dir, "f.star")})
	if err != nil {
		t.Fatal(err)
	}
	if got := `"` + string(plan.Targets[0].Path) + `"`; got != have {
		t.Errorf("the source is %s, Nix has %s", got, have)
	}
}
