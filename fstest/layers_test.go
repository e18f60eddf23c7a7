// Package fstest holds the tests of the whole: the real binary, real mounts,
// real builders, and the rules that no single package can check for itself.
package fstest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers lists the packages from the bottom up. A package may import packages
// of rows below its own only: that is how nothing in the way of a lookup turns
// back.
var layers = [][]string{
	{"store", "pressure", "tree", "rawfile", "outlet", "sysmon"},
	{"event", "storeexpr", "references", "prefetch"},
	{"nar"},
	{"db", "integrity", "fetchurl", "buildenv", "unpackchannel"},
	{"state", "builder", "instantiate", "progress", "timeline", "holder"},
	{"substitute", "builder/buildertest"},
	{"normaliser", "substitute/substitutetest"},
	{"fs", "daemon"},
	{"notice"},
	{"cmd/storefs"},
}

// alone lists what a package must not import although its row would allow it.
var alone = map[string][]string{
	"holder":     {"store", "event"},                       // it knows processes and files only
	"fs":         {"builder", "normaliser", "db", "state"}, // fs knows no builders, no graph, no database
	"builder":    {"db", "state", "normaliser"},            // nor does a builder, which may run on another machine
	"normaliser": {"db", "state", "nar", "fs"},             // the graph sees files and tables through its own interfaces
	"daemon":     {"fs", "db", "state"},
	"notice":     {"normaliser", "daemon", "db", "state"},
	"db":         {"nar", "references", "storeexpr"}, // db holds no files and reads no expressions
}

func TestImportsPointDown(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "storefs/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	row := map[string]int{}
	for i, names := range layers {
		for _, n := range names {
			row[n] = i
		}
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		pkg = strings.TrimPrefix(pkg, "storefs/")
		if strings.HasPrefix(pkg, "fstest") || pkg == "examples" || strings.HasPrefix(pkg, "examples/") {
			continue
		}
		own, ok := row[pkg]
		if !ok {
			t.Errorf("package %s has no row in layers: say where it stands", pkg)
			continue
		}
		seen++
		for imp := range strings.FieldsSeq(imports) {
			name, ours := strings.CutPrefix(imp, "storefs/")
			if !ours {
				continue
			}
			if row[name] >= own {
				t.Errorf("%s imports %s, which is not below it", pkg, name)
			}
			if slices.Contains(alone[pkg], name) {
				t.Errorf("%s imports %s: it must not know it", pkg, name)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("go list showed %d packages of the project: %s", seen, out)
	}
}
