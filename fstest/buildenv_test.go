package fstest

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// userExpr are packages for nix-env: two have directories in common, one of which only a
// third one wants, and two have a file in common.
const userExpr = `let
  tools = ./tools;
  package = name: meta: script: derivation {
    inherit name; system = "x86_64-linux"; builder = "${tools}/bin/sh"; PATH = "${tools}/bin"; args = [ "-euc" script ];
  } // { inherit meta; };
  wanted = package "wanted-1" { } "mkdir -p $out/bin $out/share/doc; echo wanted > $out/bin/wanted; echo wanted > $out/share/doc/wanted; echo wanted > $out/bin/both";
in {
  one = package "one-1" { priority = 7; } "mkdir -p $out/bin $out/share/doc; echo one > $out/bin/one; echo one > $out/bin/both; echo one > $out/share/doc/one";
  two = package "two-1" { } "mkdir -p $out/bin $out/nix-support; echo two > $out/bin/two; echo two > $out/bin/both; echo ${wanted} > $out/nix-support/propagated-user-env-packages";
}
`

// What nix-env of a real Nix has as its user environment is made, by the same derivation,
// when somebody looks into it.
func TestRealNixUserEnvironment(t *testing.T) {
	l := newLab(t)
	l.write("user.nix", userExpr)
	made := strings.Fields(l.nixScript(`nix-env -p $PWD/profile -f user.nix -i >&2
out=$(readlink -f profile); drv=$(nix-store -q --deriver $out)
nix-store --export $(nix-store -qR $drv) > exported
echo $drv; nix-store -q --hash $out; nix-store -q --references $out`))
	drv, hash, references := made[0], made[1], made[2:]
	if r := l.inShell(binary + " import < exported"); r.status != 0 {
		t.Fatalf("import: %s", r.stderr)
	}
	l.serve()
	out := l.ok("query", "outputs", drv)[0]
	for name, want := range map[string]string{"bin/one": "one\n", "bin/two": "two\n", "bin/both": "two\n", "bin/wanted": "wanted\n", "share/doc/one": "one\n", "share/doc/wanted": "wanted\n"} {
		if b, err := os.ReadFile(out + "/" + name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	var infos []struct {
		NarHash    string
		References []string
	}
	if err := json.Unmarshal([]byte(strings.Join(l.ok("query", "info", "--json", out), "\n")), &infos); err != nil || len(infos) != 1 {
		t.Fatalf("query info --json: %v", err)
	}
	slices.Sort(references)
	if got := infos[0]; got.NarHash != hash || !slices.Equal(got.References, references) {
		t.Errorf("%+v, Nix has %s and %q", got, hash, references)
	}
	if text := l.ok("build", "--check", drv); !slices.Equal(text, []string{out}) {
		t.Errorf("build --check: %q", text)
	}
}
