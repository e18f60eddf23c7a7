package storeexpr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"storefs/store"
)

// corpus gives derivations of every sort that Nix 2.8 makes without
// experimental features.
const corpus = `
let
  mk = a: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // a);
  fixed = mode: algo: hash: mk {
    name = "fixed-${mode}-${algo}";
    outputHashMode = mode; outputHashAlgo = algo; outputHash = hash;
    url = "https://example.org/${algo}";
  };
  md5 = "d41d8cd98f00b204e9800998ecf8427e";
  sha1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
  sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  sha512 = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
  fixeds = map (mode: [ (fixed mode "md5" md5) (fixed mode "sha1" sha1) (fixed mode "sha256" sha256) (fixed mode "sha512" sha512) ])
    [ "flat" "recursive" ];
  mirror = url: mk { name = "download"; outputHashAlgo = "sha256"; outputHashMode = "flat"; outputHash = sha256; inherit url; };
  diamond = a: let
    b = mk { name = "b"; inherit a; };
    c = mk { name = "c"; inherit a; };
  in mk { name = "d"; inherit b c; };
  multi = mk { name = "multi"; outputs = [ "out" "dev" "lib" "a-b" ]; };
  devOnly = mk { name = "dev-only"; outputs = [ "dev" "bin" ]; };
  chain = n: if n == 0 then multi else mk { name = "chain-${toString n}"; prev = chain (n - 1); also = fixeds; };
in builtins.concatLists fixeds ++ [
  (mk { name = "plain"; })
  (mk { name = "args"; args = [ "-c" "echo \"\$out\"\n\techo \\\\" "" "ü" ]; })
  multi devOnly
  (mk { name = "some-outputs"; args = [ multi.dev multi.lib devOnly.bin ]; })
  (diamond (mirror "https://a.example.org"))
  (diamond (mirror "https://b.example.org"))
  (mk { name = "both-mirrors"; a = mirror "https://a.example.org"; b = mirror "https://b.example.org"; })
  (mk { name = "escapes"; v = "quote \" backslash \\ dollar \$ newline \n return \r tab \t end"; "weird \" name" = "1"; })
  (mk { name = "bytes"; v = "Grüße, 世界 RAWBYTES"; "ключ" = "значение"; })
  (mk { name = "source"; text = builtins.toFile "hello.txt" "hello\n"; })
  (mk { name = "attrs"; __structuredAttrs = true; outputs = [ "out" "doc" ]; list = [ 1 2 "three" ]; nested = { a.b = null; }; })
  (mk { name = "as-file"; passAsFile = [ "big" ]; big = "0123456789"; })
  (mk { name = "whole-graph"; drv = (diamond multi).drvPath; })
  (mk { name = "drv-as-source"; drv = builtins.unsafeDiscardOutputDependency multi.drvPath; })
  (mk { name = "sri"; outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashMode = "recursive"; outputHashAlgo = null; })
  (mk { name = "base32"; outputHash = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"; })
  (mk { name = "+strange?name=1.0_x"; })
  (chain 20)
]
`

// rawBytes are no UTF-8, and one of them is a byte that another encoding would
// take for a quote.
const rawBytes = "\xff\xfe\x80\xe9\x01\x7f"

func instantiateCorpus(t *testing.T) (*nix, map[store.Path][]byte) {
	t.Helper()
	n := newNix(t)
	n.instantiate(t, strings.Replace(corpus, "RAWBYTES", rawBytes, 1))
	texts := n.derivations(t)
	if len(texts) < 45 {
		t.Fatalf("nix-instantiate left only %d derivations", len(texts))
	}
	return n, texts
}

func TestRealDerivations(t *testing.T) {
	n, texts := instantiateCorpus(t)
	r := readReal(t, texts)
	sorts := make(map[string]int)
	for p, text := range texts {
		d, name := r.drvs[p], nameOf(p)
		if got := string(d.AppendText(nil)); got != string(text) {
			t.Errorf("%s: written back as\n%s\nwas\n%s", p, got, text)
		}
		if err := d.Check(n.dir, name); err != nil {
			t.Errorf("%s: Check: %v", p, err)
		}
		if err := d.CheckOutputs(n.dir, name, r.inputs); err != nil {
			t.Errorf("%s: CheckOutputs: %v", p, err)
		}
		if got, err := d.Path(n.dir, name); err != nil || got != p {
			t.Errorf("%s: Path: %s, %v", p, got, err)
		}
		if o, ok := d.Fixed(); ok {
			sorts["fixed "+o.Algo]++
		}
		sorts[fmt.Sprintf("%d outputs", len(d.Outputs))]++
		if len(d.Sources) > 0 {
			sorts["sources"]++
		}
		if strings.Contains(string(text), rawBytes) {
			sorts["raw bytes"]++
		}
	}
	for _, want := range []string{
		"fixed md5", "fixed sha1", "fixed sha256", "fixed sha512", "fixed r:md5", "fixed r:sha1", "fixed r:sha256", "fixed r:sha512",
		"1 outputs", "2 outputs", "4 outputs", "sources", "raw bytes",
	} {
		if sorts[want] == 0 {
			t.Errorf("no derivation with %s among those that Nix made: %v", want, sorts)
		}
	}
}

func TestRealReferences(t *testing.T) {
	n, texts := instantiateCorpus(t)
	r := readReal(t, texts)
	for _, name := range []string{"whole-graph", "drv-as-source", "source", "some-outputs", "d"} {
		i := 0
		for p, d := range r.drvs {
			if nameOf(p) != name {
				continue
			}
			i++
			var want []store.Path
			for _, s := range n.run(t, "nix-store", "--query", "--references", string(p)) {
				want = append(want, store.Path(s))
			}
			slices.Sort(want)
			if got := d.References(); len(got) == 0 || !slices.Equal(got, want) {
				t.Errorf("%s: references\n%v\nwant\n%v", p, got, want)
			}
		}
		if i == 0 {
			t.Errorf("no derivation is called %q", name)
		}
	}
}

// Without their paths, derivations get the very paths that Nix gave them.
func TestRealFillOutputs(t *testing.T) {
	n, texts := instantiateCorpus(t)
	r := readReal(t, texts)
	for p, text := range texts {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		d := e.(*Derivation)
		for i, o := range d.Outputs {
			d.Outputs[i].Path = ""
			d.Env = slices.DeleteFunc(d.Env, func(v EnvVar) bool { return v.Name == o.Name })
		}
		if err := d.FillOutputs(n.dir, nameOf(p), r.inputs); err != nil {
			t.Errorf("%s: FillOutputs: %v", p, err)
		} else if got := string(d.AppendText(nil)); got != string(text) {
			t.Errorf("%s: filled in as\n%s\nwas\n%s", p, got, text)
		}
	}
}

// How a fixed output is fetched makes no difference to what uses it.
func TestRealMirrors(t *testing.T) {
	_, texts := instantiateCorpus(t)
	r := readReal(t, texts)
	var drvs, outs []store.Path
	for p, d := range r.drvs {
		if v, ok := d.Getenv("b"); nameOf(p) == "d" && ok && strings.HasSuffix(v, "-b") {
			o, _ := d.Output("out")
			drvs, outs = append(drvs, p), append(outs, o.Path)
		}
	}
	// One more diamond has no download at its bottom.
	if len(drvs) != 3 {
		t.Fatalf("%d derivations called d, want 3", len(drvs))
	}
	slices.Sort(outs)
	if n := len(slices.Compact(outs)); n != 2 {
		t.Errorf("%d different outputs of %v, want 2", n, drvs)
	}
}

func TestRealWrongOutputs(t *testing.T) {
	n, texts := instantiateCorpus(t)
	r := readReal(t, texts)
	other := string(n.dir) + "/" + strings.Repeat("0", 32) + "-"
	for p, text := range texts {
		for i := range r.drvs[p].Outputs {
			e, _ := Parse(text)
			d, o := e.(*Derivation), &e.(*Derivation).Outputs[i]
			want, name := o.Path, o.Name
			o.Path = store.Path(other + want.Name())
			err := d.CheckOutputs(n.dir, nameOf(p), r.inputs)
			wantError(t, err, fmt.Sprintf("output %q of %q is %s, should be %s: malformed store expression", name, nameOf(p), o.Path, want))

			o.Path = want
			d.setEnv(name, "elsewhere")
			err = d.CheckOutputs(n.dir, nameOf(p), r.inputs)
			wantError(t, err, fmt.Sprintf("variable %q of %q is \"elsewhere\", should be %s: malformed store expression", name, nameOf(p), want))

			d.Env = slices.DeleteFunc(d.Env, func(v EnvVar) bool { return v.Name == name })
			err = d.CheckOutputs(n.dir, nameOf(p), r.inputs)
			wantError(t, err, fmt.Sprintf("%q has no variable for its output %q: malformed store expression", nameOf(p), name))
		}
	}
}

// Outputs whose paths are known only after a build are refused by one clear
// line.
func TestRealUnsupported(t *testing.T) {
	n := newNix(t)
	n.instantiate(t, `
		let
		  mk = a: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // a);
		  floating = mk { name = "floating"; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
		in [
		  (mk { name = "deferred"; inherit floating; })
		  (mk { name = "impure"; __impure = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; })
		]`)
	want := map[string]string{
		"floating": `output "out" is floating content-addressed, which is not supported`,
		"impure":   `output "out" is impure, which is not supported`,
		"deferred": `output "out" has no path: it depends on how something else is built, which is not supported`,
	}
	got := make(map[string]bool)
	for p, text := range n.derivations(t) {
		got[nameOf(p)] = true
		_, err := Parse(text)
		wantError(t, err, "byte 8: "+want[nameOf(p)]+": malformed store expression")
	}
	if len(got) != len(want) {
		t.Errorf("Nix made %v", got)
	}
}

// In the store directory that most of the world uses, which is not touched.
func TestRealNixStore(t *testing.T) {
	n := newNix(t)
	const expr = `
	let
	  mk = a: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // a);
	  a = mk { name = "a"; outputs = [ "out" "dev" ]; };
	  b = mk { name = "b-1.0"; inherit a; a_dev = a.dev; };
	in "${a.dev} ${b} ${a.drvPath} ${b.drvPath}"`
	dummy := &nix{env: append(slices.Clone(n.env), "NIX_STORE_DIR=/nix/store", "NIX_REMOTE=dummy://")}
	out := dummy.run(t, "nix-instantiate", "--eval", "--expr", expr)
	if len(out) != 4 {
		t.Fatalf("nix-instantiate wrote %q", out)
	}
	dir := store.Dir("/nix/store")
	a := &Derivation{
		Outputs: []Output{{Name: "dev"}, {Name: "out"}}, Platform: "x86_64-linux", Builder: "/bin/sh",
		Env: []EnvVar{{"builder", "/bin/sh"}, {"name", "a"}, {"outputs", "out dev"}, {"system", "x86_64-linux"}},
	}
	if err := a.FillOutputs(dir, "a", nil); err != nil {
		t.Fatal(err)
	}
	aDrv, err := a.Path(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	b := &Derivation{
		Outputs: []Output{{Name: "out"}}, Inputs: []Input{{aDrv, []string{"dev", "out"}}}, Platform: "x86_64-linux", Builder: "/bin/sh",
		Env: []EnvVar{
			{"a", string(a.Outputs[1].Path)},
			{"a_dev", string(a.Outputs[0].Path)},
			{"builder", "/bin/sh"},
			{"name", "b-1.0"},
			{"system", "x86_64-linux"},
		},
	}
	err = b.FillOutputs(dir, "b-1.0", func(p store.Path) (Modulo, error) {
		if p != aDrv {
			t.Errorf("asked for %s", p)
		}
		return a.HashModulo(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	bDrv, err := b.Path(dir, "b-1.0")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{string(a.Outputs[0].Path), string(b.Outputs[0].Path), string(aDrv), string(bDrv)}
	for i := range want {
		if got := strings.Trim(out[i], `"`); got != want[i] {
			t.Errorf("Nix has %s, we have %s", got, want[i])
		}
	}
}

// Nix itself takes what we write for what it wrote: it reads the text from its
// own store, and shows the same derivation.
func TestRealNixReadsOurs(t *testing.T) {
	n := newNix(t)
	d := &Derivation{
		Outputs: []Output{{Name: "lib"}, {Name: "out"}}, Platform: "x86_64-linux", Builder: "/bin/sh",
		Args: []string{"-c", "echo \"" + rawBytes + "\"\n\t> $out\r"},
		Env:  []EnvVar{{"quoted", `"\`}},
	}
	if err := d.FillOutputs(n.dir, "ours", nil); err != nil {
		t.Fatal(err)
	}
	text := string(d.AppendText(nil))
	p, err := d.Path(n.dir, "ours")
	if err != nil {
		t.Fatal(err)
	}
	// builtins.toFile names the text as a .drv must be named, and the
	// query makes Nix read it.
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`, "\r", `\r`).Replace(text)
	got := n.run(t, "nix-instantiate", "--eval", "--read-write-mode", "--expr", `builtins.toFile "ours.drv" "`+quoted+`"`)
	if len(got) != 1 || strings.Trim(got[0], `"`) != string(p) {
		t.Fatalf("Nix names our text %q, want %s", got, p)
	}
	outs := n.run(t, "nix-store", "--query", "--outputs", string(p))
	slices.Sort(outs)
	want := []string{string(d.Outputs[0].Path), string(d.Outputs[1].Path)}
	slices.Sort(want)
	if !slices.Equal(outs, want) {
		t.Errorf("Nix sees the outputs %q, want %q", outs, want)
	}
	binding := n.run(t, "nix-store", "--query", "--binding", "quoted", string(p))
	if len(binding) != 1 || binding[0] != `"\` {
		t.Errorf(`Nix sees the variable as %q, want %q`, binding, `"\`)
	}
}

// wantError reports an err that is not the one line want, or not of
// store.ErrBadExpr.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("no error, want %q", want)
	case err.Error() != want:
		t.Errorf("error\n%s\nwant\n%s", err, want)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("the error has several lines: %q", err)
	case !errors.Is(err, store.ErrBadExpr):
		t.Errorf("the error %q does not wrap store.ErrBadExpr", err)
	}
}
