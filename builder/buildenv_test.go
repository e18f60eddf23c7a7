package builder_test

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"storefs/store"
)

// userEnvironments are made by builtin:buildenv, in the way of Nix's buildenv.nix. make
// is a package whose content a script makes in its directory.
const userEnvironments = `
let
  busybox = builtins.path { path = ./busybox; name = "busybox"; };
  make = name: script: derivation {
    inherit name;
    system = "x86_64-linux";
    builder = "${busybox}/bin/sh";
    args = [ "-euc" "mkdir() { $b mkdir -p \"$@\"; }; ln() { $b ln -s \"$@\"; }; mkdir $out; cd $out; ${script}" ];
    b = "${busybox}/bin/busybox";
  };
  with-outputs = derivation {
    name = "with-outputs"; outputs = [ "out" "bin" ];
    system = "x86_64-linux";
    builder = "${busybox}/bin/sh";
    args = [ "-euc" "$b mkdir -p $out/share/doc $bin/bin; echo 1 > $out/share/doc/text; echo 2 > $bin/bin/two" ];
    b = "${busybox}/bin/busybox";
  };
  env = name: packages: derivation {
    inherit name;
    system = "builtin";
    builder = "builtin:buildenv";
    manifest = builtins.toFile "manifest" name;
    derivations = map (p: [ (p.active or "true") (p.priority or 5) (builtins.length p.outputs) ] ++ p.outputs) packages;
    preferLocalBuild = true;
    allowSubstitutes = false;
  };
  plain = p: { outputs = [ p ]; };
  at = priority: p: { inherit priority; outputs = [ p ]; };
  off = priority: p: { inherit priority; active = "false"; outputs = [ p ]; };

  one = make "one" "mkdir bin share/man/man1 share/man/man3 share/icons/hicolor; echo 1 > bin/one; echo 1 > share/man/man1/one.1; echo 1 > share/man/man3/one.3; echo 1 > top; ln one bin/uno; ln ../top share/up; ln share/man man";
  two = make "two" "mkdir bin share/man/man1 share/icons/hicolor/48x48 empty; echo 2 > bin/two; echo 2 > share/man/man1/two.1; echo 2 > share/icons/hicolor/48x48/two; ln ${one}/bin/one bin/one-of-two";
  three = make "three" "mkdir bin real/deep/er share/icons; echo 3 > real/deep/er/three.1; echo 3 > bin/three; ln ../real share/man; ln ../../real/deep share/icons/hicolor; ln ${two}/empty empty";
  linked = make "linked" "ln ${one}/share share; ln ${two} all; ln ${three}/real/deep/er/three.1 top2; ln ${one} more";
  more = make "more" "mkdir share/man/man1 more/bin all; echo 4 > share/man/man1/more.1; echo 4 > more/bin/four; echo 4 > all/x";
  chained = make "chained" "ln a b; mkdir c/d; ln c a; echo 5 > c/d/chained; mkdir share; ln ${linked}/share/man share/man";
  chained2 = make "chained2" "mkdir b/d a/d share/man/man1; echo 6 > b/d/chained2; echo 6 > a/d/chained2; echo 6 > share/man/man1/six";

  x1 = make "x1" "mkdir bin d; echo 1 > bin/x; echo 1 > bin/y; echo 1 > d/z";
  x2 = make "x2" "mkdir bin d; echo 2 > bin/x; echo 2 > bin/w; echo 2 > d/z";
  x3 = make "x3" "mkdir bin; echo 3 > bin/x; echo 3 > bin/y; ln ${one}/bin d";
  file-d = make "file-d" "echo > d; echo > bin";
  odd = make "odd" "mkdir 'a b' \"$(echo -e 'new\\nline')\" ü; echo > \"a b/ü\"; echo > .hidden; mkdir .dir x/.git x/y; echo > .dir/file; echo > x/.git/file; echo > x/y/.hidden; echo > x/y/z; echo > ...";
  useless = make "useless" "mkdir log nix-support share/log info share/info share/nix-support lib mylog logs; echo > log/file; echo > share/log/file; echo > info/dir; echo > share/info/dir; echo > share/info/dir2; echo > dir; echo > manifest.nix; echo > manifest.json; echo > lib/manifest.nix; echo > lib/perllocal.pod; echo > perllocal.pod2; echo > mylog/log; echo > mylog/logs; echo > nix-support/file; echo > nix-support/propagated-build-inputs; echo > lib/propagated-build-inputs; echo > share/nix-support/file; echo > propagated-user-env-packages";
  dangling = make "dangling" "mkdir bin d; ln nowhere bin/a; ln /no/such/path b; ln d/../bin/a c; ln ${busybox}/bin/sh/below e; ln /etc/passwd passwd; ln . d/self; echo > bin/real";
  loop = make "loop" "ln loop loop";

  propagates = name: script: list: make name "mkdir nix-support; ${script}; echo '${builtins.concatStringsSep " " list}' > nix-support/propagated-user-env-packages";
  p3 = propagates "p3" "mkdir bin; echo 3 > bin/p3; echo 3 > bin/p; echo 3 > bin/x" [ ];
  p2 = propagates "p2" "mkdir bin; echo 2 > bin/p2; echo 2 > bin/p" [ "${p3}" "${p3}" "${one}" ];
  p1 = propagates "p1" "mkdir bin; echo 1 > bin/p1; echo 1 > bin/q" [ "${p2}" "${two}" "${x2}" ];
  p0 = propagates "p0" "mkdir bin; echo 0 > bin/p0; $b cat ${busybox}/bin/sh > /dev/null" [ "${p1}" "${p3}\n ${x1}" ];
  again = propagates "again" "mkdir bin; echo a > bin/again" [ "${p1}" ];
  to-itself = make "to-itself" "mkdir nix-support bin; echo > bin/self; echo $out > nix-support/propagated-user-env-packages";
  to-file = propagates "to-file" "mkdir bin" [ "${busybox}/bin/busybox" ];
  to-nothing = propagates "to-nothing" "mkdir bin" [ "${busybox}/nothing" ];
in {
  nothing = env "nothing" [ ];
  single = env "single" [ (plain one) ];
  merged = env "merged" [ (plain one) (plain two) (plain three) ];
  merged-otherwise = env "merged-otherwise" [ (at 7 one) (at 6 two) (at (-1) three) ];
  merged-links = env "merged-links" [ (plain linked) (plain more) ];
  merged-links-otherwise = env "merged-links-otherwise" [ (at 9 linked) (at 8 more) ];
  chained = env "chained" [ (plain chained) (at 6 chained2) ];
  chained-otherwise = env "chained-otherwise" [ (at 6 chained) (plain chained2) (at 10 more) ];
  all = env "all" [ (at 1 one) (at 2 two) (at 3 three) (at 4 linked) (at 5 more) (at 6 x1) (at 7 x2) (at 8 x3) (at 9 odd) (at 10 useless) (at 11 dangling) (at 12 p0) ];
  priorities = env "priorities" [ (at 10 x1) (at 2 x2) ];
  priorities-otherwise = env "priorities-otherwise" [ (at 2 x1) (at 10 x2) (at 30 x3) ];
  priority-of-float = env "priority-of-float" [ (at 5.5 x1) (at 6.25 x2) ];
  priority-of-text = env "priority-of-text" [ (at "+3rd" x1) (at "-0x7" x2) ];
  same-twice = env "same-twice" [ (at 7 x1) (at 6 x2) (at 5 x1) (off 1 x2) ];
  several = env "several" [ { outputs = [ with-outputs.bin with-outputs ]; } { outputs = [ ]; } (plain one) ];
  inactive = env "inactive" [ (off 5 x1) (at 5 x2) (off 1 x3) { active = true; outputs = [ one ]; } { active = "no"; outputs = [ two ]; } ];
  file-behind-directory = env "file-behind-directory" [ (at 5 x1) (at 6 file-d) ];
  odd = env "odd" [ (plain odd) (at 6 (make "odd2" "mkdir 'a b' x/y; echo > 'a b/ü'; echo > 'a b/c'; echo > x/y/a")) ];
  useless = env "useless" [ (plain useless) (plain (make "useless2" "mkdir share info lib mylog; echo > lib/perllocal.pod; echo > info/dir; echo > info/other; echo > mylog/log")) ];
  dangling = env "dangling" [ (plain dangling) (plain (make "dangling2" "mkdir bin d; ln nowhere bin/a; echo > d/real")) ];
  not-directories = env "not-directories" [ (plain "${busybox}/bin/busybox") (plain (builtins.toFile "text" "")) (plain "${one}/share") (plain "${three}/share/man") ];
  propagated = env "propagated" [ (plain p0) ];
  propagated-again = env "propagated-again" [ (plain p0) (at 6 again) (off 4 p3) (plain x1) ];
  propagated-first = env "propagated-first" [ (plain again) (at 2000 p3) (at 3000 x3) ];
  propagated-itself = env "propagated-itself" [ (plain to-itself) (plain to-file) ];

  conflict = env "conflict" [ (plain (make "c1" "mkdir a/b; echo > a/b/c")) (plain (make "c2" "mkdir a/b; echo > a/b/c")) ];
  conflict-linked = env "conflict-linked" [ (at 5 (make "c1" "mkdir share/man/man1; echo > share/man/man1/one.1")) (at 5 linked) ];
  conflict-propagated = env "conflict-propagated" [ (at 1000 (make "c3" "mkdir bin; echo > bin/p1")) (plain again) ];
  conflict-propagated-last = env "conflict-propagated-last" [ (at 1000 (make "c4" "mkdir bin; echo > bin/p1")) (at 1 one) (at 2 two) (at 3 three) (at 4 (propagates "last" "true" [ "${one}" "${two}" "${three}" "${p1}" ])) ];
  conflict-file-directory = env "conflict-file-directory" [ (at 1 x1) (at 2 x2) (at 3 (make "f" "echo > d")) ];
  conflict-directory-file = env "conflict-directory-file" [ (at 1 (make "f" "echo > d")) (at 2 x1) ];
  conflict-link-file = env "conflict-link-file" [ (at 1 (make "f" "echo > real; ln real d")) (at 2 x1) ];
  conflict-file-link = env "conflict-file-link" [ (plain (make "f1" "mkdir d/e")) (plain (make "f2" "echo > d")) ];
  missing-package = env "missing-package" [ (plain "${one}/nothing") ];
  missing-propagated = env "missing-propagated" [ (plain to-nothing) ];
  link-to-itself = env "link-to-itself" [ (plain loop) ];
}`

// saysOfNix is what a log of Nix's builtin builders has to say, in our form: messages come
// in JSON, coloured.
func saysOfNix(log string) (lines []string) {
	colours := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		if text, ok := strings.CutPrefix(line, "@nix "); ok {
			var m struct{ Msg string }
			if json.Unmarshal([]byte(text), &m) == nil {
				line = m.Msg
			}
		}
		line = strings.TrimPrefix(colours.ReplaceAllString(line, ""), "error: ")
		// C has its errors begin with capitals.
		if i := strings.LastIndex(line, ": "); i >= 0 && i+2 < len(line) {
			line = line[:i+2] + strings.ToLower(line[i+2:i+3]) + line[i+3:]
		}
		lines = append(lines, line)
	}
	slices.Sort(lines) // their order is that of a directory, as it comes
	return lines
}

// TestUserEnvironmentsAsNix has user environments made by a real Nix and then here: trees
// and references, what is said, and how they fail, must be the same.
func TestUserEnvironmentsAsNix(t *testing.T) {
	n := newRealNix(t)
	drvs := n.instantiate(userEnvironments)
	if n.make(drvs) == nil {
		t.Fatal("Nix made those as well that are to fail")
	}
	l := n.local()
	failures := 0
	// The words are those of Nix 2.8. Later ones have others for the same.
	words := strings.HasPrefix(n.run("nix-store", "--version")[2], "2.8.")
	for _, drv := range drvs {
		job := n.job(drv)
		name := strings.TrimSuffix(job.Drv.Name(), ".drv")
		want := saysOfNix(n.log(drv))
		_, made := n.valid[string(job.Derivation.Outputs[0].Path)]
		t.Run(name, func(t *testing.T) {
			var file string
			if made {
				file = n.same(t, l, job).LogFile
			} else {
				failures++
				_, err := l.Build(t.Context(), job)
				var f *store.Failure
				if !errors.As(err, &f) || f.Cause != store.CauseBuilder || f.Status != 1 || len(want) == 0 {
					t.Fatalf("%v; Nix said %q", err, want)
				}
				file = f.LogFile
			}
			text, err := os.ReadFile(file)
			n.check(err)
			lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			if len(text) == 0 {
				lines = nil
			}
			slices.Sort(lines)
			if words && !slices.Equal(lines, want) {
				t.Errorf("it said\n%s\nand Nix\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
			}
		})
	}
	if failures != 11 {
		t.Errorf("%d failed, want 11", failures)
	}
}
