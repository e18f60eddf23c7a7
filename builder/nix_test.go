package builder_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"storefs/builder/buildertest"
	"storefs/nar"
	"storefs/store"
)

// nixExpressions are derivations whose outputs say what the builder was given. (What is
// blocked the shell reads itself: while it waits for a program, it blocks all signals at times.)
const nixExpressions = `
let
  busybox = builtins.path { path = ./busybox; name = "busybox"; };
  text = builtins.toFile "text" "see ${busybox}";
  make = name: script: attrs: derivation ({
    inherit name;
    system = "x86_64-linux";
    builder = "${busybox}/bin/sh";
    args = [ "-c" ("b=${busybox}/bin/busybox; " + script) "zero" (builtins.placeholder "out") "ü" ];
    } // attrs);
in {
  environment = make "environment" "$b env | $b sort > $out; printf '%s\n' \"$0\" \"$@\" >> $out; $b cat /proc/1/cmdline >> $out" {
    HOME = "/home"; TERM = "dumb"; TMP = "x"; empty = ""; self = builtins.placeholder "out";
  };
  files = make "files" "$b mkdir $out; cd $out; $b cat $bigPath > big; $b ls -A /build > ls; $b cat /build/graph > graph" {
    big = "0123456789 ${builtins.placeholder "out"}"; passAsFile = "big";
    exportReferencesGraph = [ "graph" text ];
  };
  structured = make "structured" "out=${builtins.placeholder "out"}; $b mkdir $out; $b cp .attrs.json .attrs.sh $out; $b env | $b sort | $b grep -v ATTRS > $out/env" {
    __structuredAttrs = true;
    outputs = [ "out" ];
    exportReferencesGraph.graph = [ text ];
    list = [ 1 "it's" true null ]; object = { a = 1; "b c" = "d"; }; nested = { x = [ [ 1 ] ]; };
    yes = true; no = false; big = 5000000000; negative = -3; text = "line\nline\ttab \"quoted\" back\\slash ü"; "odd name" = 1;
    floats = [ 1000000.0 1.5 15000000000.5 0.1 1.0e-4 1.0e-5 1.0e15 1.0e16 1.0e23 (-3.0e9) 1.0e100 ]; whole = 1000000.0; wide = 15000000000.0; half = 0.5; object2 = { x = 3.0e9; };
  };
  loose = make "loose" "out=${builtins.placeholder "out"}; $b mkdir $out; $b cp .attrs.json .attrs.sh $out" {
    __structuredAttrs = true;
    exportReferencesGraph = { s = "${text}"; o = { x = text; a = "${busybox}"; }; n = null; };
    outputChecks.out = {
      allowedReferences = { a = text; b = "${busybox}"; c = "out"; }; disallowedReferences = null; disallowedRequisites = builtins.unsafeDiscardStringContext "${builtins.storeDir}/00000000000000000000000000000000-none";
      maxSize = 1000000.5; maxClosureSize = 2.0e10;
    };
  };
  place = make "place" ("{ $b id; umask; $b hostname; $b cat /proc/sys/kernel/domainname; $b uname -m; $b pwd; echo $$; $b ls -A / /etc /dev /dev/shm /tmp /build; "
    + "$b cat /etc/passwd /etc/group /etc/hosts; $b cat /proc/self/personality; ulimit -c; while read -r k v; do case $k in NoNewPrivs:|Cap[EPIA]*|Seccomp:|SigIgn:|SigBlk:|NSsid:) echo $k $v;; esac; done < /proc/1/status; "
    + "for l in /proc/self/fd/0 /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx; do $b readlink $l; done; $b cut -d: -f1 /proc/net/dev; $b ls -A ${builtins.storeDir}; "
    + "(echo > x; $b chmod u+s x || $b chmod 2755 x || echo denied) 2>&1; } > $out") { };
  several = make "several" "$b mkdir -p $out $dev/d; echo $dev > $out/dev; $b ln -s $dev/d $dev/link; echo run > $dev/d/run; $b chmod 700 $dev/d/run; $b chmod 000 $out/dev" {
    outputs = [ "dev" "out" ];
  };
  self = make "self" "echo $out ${text} > $out" { allowedReferences = [ "out" text ]; };
  fixed = make "fixed" "echo hello > $out" {
    outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  };
  fixed-recursive = make "fixed-recursive" "$b env | $b grep NIX_OUTPUT_CHECKED > y; $b mkdir $out; $b cp y $out" {
    outputHashMode = "recursive"; outputHashAlgo = "sha1"; outputHash = "HASH";
  };
  fetched = import <nix/fetchurl.nix> { url = "URL/program"; hash = "sha256-FLAT"; };
  fetched-executable = import <nix/fetchurl.nix> { url = "URL/moved"; name = "executable"; executable = true; sha256 = "PROGRAM"; };
  fetched-encoded = import <nix/fetchurl.nix> { url = "URL/encoded"; hash = "sha256-FLAT"; };
  fetched-archive = import <nix/fetchurl.nix> { url = "URL/tree.nar"; unpack = true; sha256 = "TREE"; };
  fetched-archive-xz = import <nix/fetchurl.nix> { url = "URL/tree.nar.xz"; unpack = true; sha256 = "TREE"; };
  fetched-archive-executable = import <nix/fetchurl.nix> { url = "URL/file.nar.xz"; unpack = true; executable = true; sha256 = "PROGRAM"; };
}`

// toFetch starts a server of what nixExpressions fetch, and returns what to put into them:
// its URL and hashes, each after what it stands for.
func toFetch(t *testing.T) []string {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	archive := func(name string) []byte {
		var b bytes.Buffer
		check(nar.Dump(&b, filepath.Join(dir, name)))
		return b.Bytes()
	}
	packed := func(b []byte) []byte {
		cmd := exec.Command(buildertest.Need(t, "xz"), "--x86", "--lzma2", "-c")
		cmd.Stdin = bytes.NewReader(b)
		out, err := cmd.Output()
		check(err)
		return out
	}
	const program = "#!/bin/sh\n"
	check(os.MkdirAll(filepath.Join(dir, "tree", "bin"), 0o755))
	check(os.WriteFile(filepath.Join(dir, "tree", "bin", "sh"), []byte(program), 0o755))
	check(os.WriteFile(filepath.Join(dir, "tree", "text"), []byte(program), 0o644))
	check(os.Symlink("bin/sh", filepath.Join(dir, "tree", "link")))
	flat, tree, file, executable := []byte(program), archive("tree"), archive("tree/text"), archive("tree/bin/sh")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(flat)
	check(err)
	check(z.Close())
	served := map[string][]byte{
		"/program": flat, "/encoded": zipped.Bytes(), "/tree.nar": tree, "/tree.nar.xz": packed(tree), "/file.nar.xz": packed(file),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/program", http.StatusMovedPermanently)
		case "/encoded":
			w.Header().Set("Content-Encoding", "gzip")
		}
		_, _ = w.Write(served[r.URL.Path])
	}))
	t.Cleanup(s.Close)
	hash := func(b []byte) store.Hash { return store.HashOf(store.SHA256, b) }
	_, flat64, _ := strings.Cut(hash(flat).SRI(), "-")
	return []string{"URL", s.URL, "FLAT", flat64, "PROGRAM", hash(executable).Base32(), "TREE", hash(tree).Base32()}
}

// TestAsNix builds derivations with a real Nix and then here: hashes and
// references of all outputs must be equal.
func TestAsNix(t *testing.T) {
	n := newRealNix(t)
	// The hash of the fixed recursive output.
	fixed := filepath.Join(t.TempDir(), "fixed")
	n.check(os.Mkdir(fixed, 0o755))
	n.check(os.WriteFile(filepath.Join(fixed, "y"), []byte("NIX_OUTPUT_CHECKED=1\n"), 0o644))
	hash := n.run("nix-hash", "--type", "sha1", fixed)[0]

	drvs := n.instantiate(strings.NewReplacer(append(toFetch(t), "HASH", hash)...).Replace(nixExpressions))
	// A later Nix takes no attributes but those of the right type.
	drvs = slices.DeleteFunc(drvs, func(drv string) bool {
		if store.Path(drv).Name() != "loose.drv" {
			return false
		}
		_, said, err := n.try("nix-store", "-r", drv)
		strict := err != nil && strings.Contains(said, "Expected JSON value to be of type")
		if strict {
			t.Logf("%s is refused by this Nix", drv)
		}
		return strict
	})
	n.check(n.make(drvs))
	l := n.local()
	for _, drv := range drvs {
		job := n.job(drv)
		t.Run(job.Drv.Name(), func(t *testing.T) { n.same(t, l, job) })
	}
}
