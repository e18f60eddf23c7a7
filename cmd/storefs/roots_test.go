package main

import (
	"os"
	"path/filepath"
	"testing"

	"storefs/store"
)

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	path := at("store") + "/00000000000000000000000000000000-a"
	for _, sub := range []string{"roots", "real/dir"} {
		if err := os.MkdirAll(at(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"roots/direct":     path,
		"roots/below":      path + "/bin/a",
		"roots/relative":   "../store/00000000000000000000000000000000-a",
		"result":           path,
		"roots/indirect":   at("result"),
		"roots/chain":      "indirect",
		"by":               "real/dir",
		"real/up":          path,
		"roots/physical":   at("by") + "/../up", // which is real/up
		"roots/gone":       at("nothing"),
		"roots/file":       at("file"),
		"roots/below file": at("file/x"),
		"roots/loop":       "loop",
		"roots/elsewhere":  dir,
		"roots/store":      at("store"),
	} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"direct": path, "below": path, "relative": path, "indirect": path, "chain": path, "physical": path,
		"gone": "", "file": "", "below file": "", "loop": "", "elsewhere": "", "store": "",
	} {
		got, err := follow(store.Dir(at("store")), at("roots/"+name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}
