package fstest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"storefs/store"
)

// nixScript runs a script with the real Nix, whose store directory is the
// lab's: a directory of its own is bound over it in a private mount namespace,
// so neither sees the other.
func (l *lab) nixScript(script string) string {
	l.t.Helper()
	need(l.t, "nix-store")
	if os.Getuid() != 0 {
		missing(l.t, "the peer Nix needs root here, for its private mount namespace")
	}
	for _, d := range []string{"nix/store", "nix/state", "nix/log", "nix/conf", "nix/home"} {
		if err := os.MkdirAll(filepath.Join(l.Dir, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	l.write("nix/conf/nix.conf", "build-users-group =\nsubstituters =\nsandbox = false\n")
	cmd := exec.Command("unshare", "-m", "bash", "-euc", "mount --make-rprivate /"+leaveOthers+"mount --bind "+l.Dir+"/nix/store "+l.Store+"; "+script)
	cmd.Env = append(l.env, "STORE="+l.Store, "NIX_STORE_DIR="+l.Store, "NIX_STATE_DIR="+l.Dir+"/nix/state", "NIX_LOG_DIR="+l.Dir+"/nix/log",
		"NIX_CONF_DIR="+l.Dir+"/nix/conf", "HOME="+l.Dir+"/nix/home", "NIX_REMOTE=", "NIX_PATH=")
	cmd.Dir = l.Dir
	r := run(l.t, cmd)
	if r.status != 0 {
		l.t.Fatalf("nix: status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// nixExpr has what the formats have: several outputs, references between
// them, to themselves and to inputs, fixed outputs (flat, recursive), symlinks, executables,
// passAsFile, bytes above 127.
const nixExpr = `let
  tools = ./tools;
  sh = name: script: extra: derivation ({ inherit name; system = "x86_64-linux"; builder = "${tools}/bin/sh"; PATH = "${tools}/bin"; args = [ "-euc" script ]; } // extra);
  fixed = sh "fixed.txt" "echo -n fixed > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "fixed"; };
  base = sh "base" "mkdir -p $out/bin $dev; echo $out > $out/self; echo $out > $dev/ref; cp $PATH/busybox $out/bin/tool; ln -s $out/self $out/link; cat $fixed > $out/fixed" { outputs = [ "out" "dev" ]; inherit fixed; };
  text = sh "text" "cat $bodyPath > $out" { passAsFile = [ "body" ]; body = "ünïcode \" \\ $\n\t end"; };
in sh "top" "mkdir $out; echo ${base.dev} > $out/dev; ln -s ${text} $out/text; chmod 751 $out/dev; touch $out/empty; mkdir -p $out/a/b; echo $out > $out/a/b/self" { }
`

func TestRealNixClosureBuildsTheSame(t *testing.T) {
	l := newLab(t)
	l.write("top.nix", nixExpr)
	drv := strings.TrimSpace(l.nixScript("nix-instantiate top.nix 2>/dev/null; nix-store --export $(nix-store -qR $(nix-instantiate top.nix 2>/dev/null)) > exported"))
	cmd := l.command("import")
	f, err := os.Open(l.Dir + "/exported")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdin = f
	if r := run(t, cmd); r.status != 0 {
		t.Fatalf("import: %s", r.stderr)
	}
	outs := l.ok("build", drv)

	// Now Nix builds the same derivation, and every path of both closures is compared.
	l.nixScript("nix-store -r " + drv + " >/dev/null 2>&1")
	n := 0
	for _, p := range l.ok(append([]string{"query", "requisites"}, outs...)...) {
		nix := strings.Split(strings.TrimSuffix(l.nixScript("nix-store -q --hash "+p+"; nix-store -q --references "+p), "\n"), "\n")
		var infos []struct {
			Path       string
			NarHash    string
			References []string
		}
		if err := json.Unmarshal([]byte(strings.Join(l.ok("query", "info", "--json", p), "\n")), &infos); err != nil || len(infos) != 1 {
			t.Fatalf("query info --json %s: %v", p, err)
		}
		ours, theirs := infos[0].References, nix[1:]
		slices.Sort(ours)
		slices.Sort(theirs)
		if infos[0].NarHash != nix[0] {
			t.Errorf("%s: NAR hash %s, Nix gets %s", p, infos[0].NarHash, nix[0])
		}
		if !slices.Equal(ours, theirs) {
			t.Errorf("%s: references %v, Nix finds %v", p, ours, theirs)
		}
		n++
	}
	if n < 4 {
		t.Errorf("only %d paths were compared", n)
	}

	// And the way back: what storefs exports, Nix imports and verifies.
	if r := l.inShell(binary + " export $(" + binary + " query requisites " + drv + " " + strings.Join(outs, " ") + ") > back"); r.status != 0 {
		t.Fatalf("export: %s", r.stderr)
	}
	l.nixScript(`rm -rf nix/state; chmod -R u+w nix/store; rm -rf nix/store/*; mkdir nix/state; nix-store --import < back >/dev/null; nix-store --verify --check-contents >/dev/null 2>&1; nix-store -qR ` + outs[0] + ` | grep -q top`)
}

// Where the hash is wrong, Nix and storefs keep what came at the same path.
func TestRealNixKeepsTheSameOfAMismatch(t *testing.T) {
	l := newLab(t)
	expr := "let tools = ./tools; wrong = algo: mode: name: script: derivation { inherit name; system = \"x86_64-linux\"; builder = \"${tools}/bin/sh\"; PATH = \"${tools}/bin\"; " +
		"args = [ \"-euc\" script ]; outputHashAlgo = algo; outputHashMode = mode; outputHash = builtins.hashString algo \"\"; };\nin [\n"
	n := 0
	for _, algo := range []string{"md5", "sha1", "sha256", "sha512"} {
		expr += fmt.Sprintf("(wrong %q \"flat\" \"flat-%s\" \"echo text > $out\")\n", algo, algo)
		expr += fmt.Sprintf("(wrong %q \"recursive\" \"tree-%s\" \"mkdir -p $out/d; echo text > $out/d/f; chmod +x $out/d/f; ln -s d $out/link\")\n", algo, algo)
		n += 2
	}
	l.write("wrong.nix", expr+"]\n")
	drvs := strings.Fields(l.nixScript("nix-instantiate wrong.nix 2>/dev/null; nix-store --export $(nix-store -qR $(nix-instantiate wrong.nix 2>/dev/null)) > exported"))
	if len(drvs) != n {
		t.Fatalf("%d derivations, want %d", len(drvs), n)
	}
	if r := l.inShell(binary + " import < exported"); r.status != 0 {
		t.Fatalf("import: %s", r.stderr)
	}
	nixStatus := strings.TrimSpace(l.nixScript("nix-store -r -k " + strings.Join(drvs, " ") + " >/dev/null 2>&1 || echo $?"))
	if r := l.storefs(append([]string{"build", "-k"}, drvs...)...); r.status != 102 || nixStatus != "102" {
		t.Errorf("status %d, Nix ends with %s, want 102", r.status, nixStatus)
	}
	for _, drv := range drvs {
		_, kept := l.mismatched(strings.Join(l.ok("why", drv), "\n"))
		var ours, nix []struct {
			NarHash    string
			NarSize    int64
			CA         string
			References []string
		}
		info := l.nixScript("nix --extra-experimental-features nix-command path-info --json " + kept)
		// From 2.19 on, it writes them by their paths.
		if named, ok := strings.CutPrefix(info, `{"`+kept+`":`); ok {
			info = "[" + strings.TrimSuffix(strings.TrimSpace(named), "}") + "]"
		}
		if err := json.Unmarshal([]byte(info), &nix); err != nil || len(nix) != 1 {
			t.Errorf("Nix does not have %s: %v: %s", kept, err, info)
			continue
		}
		hash, err := store.ParseHash(nix[0].NarHash)
		if err != nil {
			t.Fatal(err)
		}
		nix[0].NarHash = hash.String()
		if err := json.Unmarshal([]byte(strings.Join(l.ok("query", "info", "--json", kept), "\n")), &ours); err != nil || !reflect.DeepEqual(ours, nix) {
			t.Errorf("%s: %+v, Nix has %+v (%v)", kept, ours, nix, err)
		}
	}
	l.ok("verify", "--check-contents")
}
