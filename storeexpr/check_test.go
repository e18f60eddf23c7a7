package storeexpr

import (
	"slices"
	"strings"
	"testing"

	"storefs/store"
)

const (
	testDir = store.Dir("/nix/store")
	pathA   = "/nix/store/00000000000000000000000000000000-a"
	pathB   = "/nix/store/11111111111111111111111111111111-b"
	drvA    = pathA + ".drv"
	drvB    = pathB + ".drv"
)

// sound is a derivation that has nothing to complain about.
func sound() *Derivation {
	return &Derivation{
		Outputs:  []Output{{Name: "dev", Path: pathA + "-dev"}, {Name: "out", Path: pathA}},
		Inputs:   []Input{{drvA, []string{"out"}}, {drvB, []string{"dev", "out"}}},
		Sources:  []store.Path{pathA, drvA},
		Platform: "x86_64-linux", Builder: "builtin:fetchurl",
		Args: []string{""}, Env: []EnvVar{{"", "a=b"}, {"a=b", ""}},
	}
}

func sound2004() *Derivation {
	return &Derivation{
		Form: Form2004, Outputs: []Output{{Path: hexA}}, Inputs: []Input{{Path: hexB + ".store"}},
		Platform: "i686-linux", Builder: "/bin/sh",
	}
}

func soundFixed(algo, hash string) *Derivation {
	d := sound()
	d.Outputs = []Output{{"out", pathA, algo, hash}}
	return d
}

func TestCheck(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("0", n) }
	for _, d := range []*Derivation{
		sound(), sound2004(),
		soundFixed("md5", zeros(32)), soundFixed("sha1", zeros(40)), soundFixed("r:sha256", zeros(64)), soundFixed("r:sha512", zeros(128)),
	} {
		if err := d.Check(testDir, "a"); err != nil {
			t.Errorf("%+v: %v", d, err)
		}
	}
	change := func(d *Derivation, f func(d *Derivation)) *Derivation {
		f(d)
		return d
	}
	for _, c := range []struct {
		name string
		d    *Derivation
		want string
	}{
		{"", sound(), `the name is empty: malformed store path`},
		{"a b", sound(), `the name "a b" contains ' ', which is not one of A-Z a-z 0-9 + - . _ ? =: malformed store path`},
		{strings.Repeat("a", 208), sound(), `the name is 212 bytes long, more than 211: malformed store path`},
		{strings.Repeat("a", 206), sound2004(), `the name is 212 bytes long, more than 211: malformed store path`},
		{strings.Repeat("a", 207), change(sound(), func(d *Derivation) { d.Outputs[0].Name = "a-long-one" }), `output "a-long-one": the name is 218 bytes long, more than 211: malformed store path`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs = nil }), `it has no outputs`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[0].Name = "out" }), `outputs: "out" occurs twice`},
		{"a", change(sound(), func(d *Derivation) { slices.Reverse(d.Outputs) }), `outputs: "out" stands before "dev"`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[0].Name = "" }), `"" cannot be the name of an output`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[0].Name = "drv" }), `"drv" cannot be the name of an output`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[0].Name = "d/v" }), `output "d/v": the name "a-d/v" contains '/', which is not one of A-Z a-z 0-9 + - . _ ? =: malformed store path`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[1].Path = "" }), `output "out" has no path: it depends on how something else is built, which is not supported`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[1].Path = "/gnu" + pathA }), `output "out": "/gnu` + pathA + `" is not in the store /nix/store: malformed store path`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[1].Path = pathA + "/b" }), `output "out": "` + pathA + `/b" is below a store path, not one itself: malformed store path`},
		{"a", change(sound(), func(d *Derivation) { d.Outputs[1] = Output{"out", pathA, "sha1", zeros(40)} }), `output "out": a fixed output must be the only one and be called "out"`},
		{"a", change(soundFixed("sha1", zeros(40)), func(d *Derivation) { d.Outputs[0].Name = "dev" }), `output "dev": a fixed output must be the only one and be called "out"`},
		{"a", soundFixed("sha256", ""), `output "out" is floating content-addressed, which is not supported`},
		{"a", soundFixed("sha256", "impure"), `output "out" is impure, which is not supported`},
		{"a", soundFixed("", zeros(64)), `output "out": hash algorithm "": not one of md5, sha1, sha256, sha512`},
		{"a", soundFixed("text:sha256", zeros(64)), `output "out": hash algorithm "text:sha256": not one of md5, sha1, sha256, sha512`},
		{"a", soundFixed("sha256", zeros(63)), `output "out": hash "` + zeros(63) + `": 63 characters are no sha256 digest in base 16, 32 or 64`},
		{"a", soundFixed("sha256", zeros(52)), `output "out": hash "` + zeros(52) + `": not in base 16, in lower case`},
		{"a", soundFixed("md5", zeros(31)+"A"), `output "out": hash "` + zeros(31) + `A": not in base 16, in lower case`},
		{"a", change(sound(), func(d *Derivation) { d.Inputs[0].Path = pathA }), `input ` + pathA + ` is not a derivation`},
		{"a", change(sound(), func(d *Derivation) { d.Inputs[0].Path = "/a.drv" }), `input: "/a.drv" is not in the store /nix/store: malformed store path`},
		{"a", change(sound(), func(d *Derivation) { d.Inputs[0].Outputs = nil }), `input ` + drvA + `: none of its outputs is used`},
		{"a", change(sound(), func(d *Derivation) { slices.Reverse(d.Inputs[1].Outputs) }), `input ` + drvB + `: used outputs: "out" stands before "dev"`},
		{"a", change(sound(), func(d *Derivation) { slices.Reverse(d.Inputs) }), `inputs: "` + drvB + `" stands before "` + drvA + `"`},
		{"a", change(sound(), func(d *Derivation) { d.Sources[1] = pathA }), `sources: "` + pathA + `" occurs twice`},
		{"a", change(sound(), func(d *Derivation) { d.Sources[0] = "/etc" }), `sources: "/etc" is not in the store /nix/store: malformed store path`},
		{"a", change(sound(), func(d *Derivation) { d.Platform = "" }), `it names no platform`},
		{"a", change(sound(), func(d *Derivation) { d.Builder = "" }), `it names no builder`},
		{"a", change(sound(), func(d *Derivation) { d.Platform = "a\x00" }), `the platform "a\x00" contains a NUL`},
		{"a", change(sound(), func(d *Derivation) { d.Builder = "\x00a" }), `the builder "\x00a" contains a NUL`},
		{"a", change(sound(), func(d *Derivation) { d.Args[0] = "\x00" }), `argument 1 contains a NUL`},
		{"a", change(sound(), func(d *Derivation) { d.Env[1].Name = "\x00" }), `variable "\x00" contains a NUL`},
		{"a", change(sound(), func(d *Derivation) { d.Env[1].Value = "\x00" }), `variable "a=b" contains a NUL`},
		{"a", change(sound(), func(d *Derivation) { slices.Reverse(d.Env) }), `variables: "a=b" stands before ""`},
		{"a", change(sound2004(), func(d *Derivation) { d.Outputs[0].Name = "out" }), `output ` + hexA + `: outputs of 2004 have a path only`},
		{"a", change(sound2004(), func(d *Derivation) { d.Outputs[0].Path = "/a" }), `"/a" is not in the store /nix/store: malformed store path`},
		{"a", change(sound2004(), func(d *Derivation) { d.Inputs[0].Path = "/a" }), `input: "/a" is not in the store /nix/store: malformed store path`},
		{"a", change(sound2004(), func(d *Derivation) { d.Inputs[0].Outputs = []string{"out"} }), `input ` + hexB + `.store: inputs of 2004 select no outputs`},
		{"a", change(sound2004(), func(d *Derivation) { d.Sources = []store.Path{pathA} }), `source ` + pathA + `: in 2004 a source is used through a closure`},
	} {
		err := c.d.Check(testDir, c.name)
		wantError(t, err, `derivation "`+c.name+`": `+c.want+`: malformed store expression`)
	}
}

func TestCheckClosure(t *testing.T) {
	good := func() *Closure {
		return &Closure{Roots: []store.Path{pathA}, Elements: []Element{{pathA, []store.Path{pathA, pathB}}, {Path: pathB}}}
	}
	if err := good().Check(testDir); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(c *Closure)
		want   string
	}{
		{func(c *Closure) { c.Roots = nil }, `it has no roots`},
		{func(c *Closure) { c.Roots = []store.Path{pathA, pathA} }, `roots: "` + pathA + `" occurs twice`},
		{func(c *Closure) { c.Roots = []store.Path{drvA} }, `the root ` + drvA + ` is not an element`},
		{func(c *Closure) { c.Roots = []store.Path{"/a"} }, `roots: "/a" is not in the store /nix/store: malformed store path`},
		{func(c *Closure) { c.Elements = c.Elements[:1] }, pathA + ` refers to ` + pathB + `, which is not an element`},
		{func(c *Closure) { slices.Reverse(c.Elements) }, `elements: "` + pathB + `" stands before "` + pathA + `"`},
		{func(c *Closure) { slices.Reverse(c.Elements[0].References) }, pathA + `: references: "` + pathB + `" stands before "` + pathA + `"`},
		{func(c *Closure) { c.Elements[0].References[0] = "/a" }, pathA + `: references: "/a" is not in the store /nix/store: malformed store path`},
		{func(c *Closure) { c.Elements[1].Path = pathB + "/x"; c.Elements[0].References = nil }, `"` + pathB + `/x" is below a store path, not one itself: malformed store path`},
	} {
		cl := good()
		c.change(cl)
		wantError(t, cl.Check(testDir), `closure: `+c.want+`: malformed store expression`)
	}
}
