package instantiate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What several sources hold is read twice, however many they are, and is the same in all that
// come then; what has another length meanwhile is told by its name.
func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	header := filepath.Join(dir, "src/sub/h")
	writeFiles(t, dir, map[string]string{
		"src/sub/h": "one", "src/a": "a", "src/b": "b", "src/c": "c",
		"main.star": `
first = source("src", name = "x", include = ["sub/h"])
second = source("src", name = "y", include = ["a", "sub/h"])
print("same length")
default = [
    first, second,
    source("src", name = "x", include = ["sub/*"]),
    source("src", name = "z", include = ["b", "sub/h"]),
]
print("another length")
`,
		"again.star": `
default = source("src", name = "z", include = ["b", "sub/h"])
`,
		"longer.star": `
first = source("src", include = ["a", "sub/h"])
print("another length")
second = source("src", include = ["b", "sub/h"])
`,
	})
	content := map[string]string{"same length": "two", "another length": "longer"}
	opts := Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star"), Print: func(text string) {
		for said, to := range content {
			if strings.HasSuffix(text, said) {
				if err := os.WriteFile(header, []byte(to), 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}}
	again := opts
	again.File = filepath.Join(dir, "again.star")
	before, err := Eval(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := Eval(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Targets
	if p[0].Path != p[2].Path || p[3].Path != before.Targets[0].Path {
		t.Errorf("a file was read for the third time: %v", p)
	}
	if err := os.WriteFile(header, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	opts.File = filepath.Join(dir, "longer.star")
	_, err = Eval(t.Context(), opts)
	want := opts.File + ":4:16: source src: " + header + ": changed while it was read"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
