package storeexpr

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"storefs/store"
)

func TestLookups(t *testing.T) {
	d := sound()
	if o, ok := d.Output("out"); !ok || o.Path != pathA {
		t.Errorf("Output(out) = %v, %v", o, ok)
	}
	if o, ok := d.Output("lib"); ok {
		t.Errorf("Output(lib) = %v", o)
	}
	if o, ok := sound2004().Output(""); ok {
		t.Errorf("an output of 2004 has no name, but %v was found", o)
	}
	if o, ok := d.Fixed(); ok {
		t.Errorf("Fixed() = %v", o)
	}
	if o, ok := soundFixed("md5", "00").Fixed(); !ok || o.Algo != "md5" {
		t.Errorf("Fixed() = %v, %v", o, ok)
	}
	if v, ok := d.Getenv("a=b"); !ok || v != "" {
		t.Errorf("Getenv(a=b) = %q, %v", v, ok)
	}
	if v, ok := d.Getenv("b"); ok {
		t.Errorf("Getenv(b) = %q", v)
	}
	if got := d.OutputList(); !slices.Equal(got, []store.Path{pathA + "-dev", pathA}) {
		t.Errorf("OutputList() = %v", got)
	}
	if got := d.References(); !slices.Equal(got, []store.Path{pathA, drvA, drvB}) {
		t.Errorf("References() = %v", got)
	}
}

func TestPath2004(t *testing.T) {
	got, err := sound2004().Path(testDir, "d-a")
	// By md5sum.
	if want := store.Path("/nix/store/079f9f960ba06cd31c8cc2f2db7eee43-d-a.store"); err != nil || got != want {
		t.Errorf("%s, %v, want %s\n%s", got, err, want, sound2004().AppendText(nil))
	}
}

// Any derivation and any closure, of whatever bytes, comes back from its text.
func TestRoundTrip(t *testing.T) {
	bytes := rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte("\"\\\n\r\t,()[]"))), 0, 20).Draw(t, "bytes"))
	})
	path := rapid.Map(bytes, func(s string) store.Path { return store.Path("/" + s) })
	pathSet := func(t *rapid.T, what string) []store.Path {
		return sortedPaths(rapid.SliceOfN(path, 0, 5).Draw(t, what))
	}
	rapid.Check(t, func(t *rapid.T) {
		d := &Derivation{
			Platform: bytes.Draw(t, "platform"), Builder: bytes.Draw(t, "builder"),
			Args: rapid.SliceOfN(bytes, 0, 5).Draw(t, "args"),
		}
		for name, value := range rapid.MapOfN(bytes, bytes, 0, 5).Draw(t, "env") {
			d.setEnv(name, value)
		}
		if rapid.Bool().Draw(t, "2004") {
			d.Form = Form2004
			for _, p := range append(pathSet(t, "outputs"), "/\xff\xff") {
				d.Outputs = append(d.Outputs, Output{Path: p})
			}
			for _, p := range pathSet(t, "inputs") {
				d.Inputs = append(d.Inputs, Input{Path: p})
			}
		} else {
			names := append(rapid.SliceOfN(bytes, 0, 3).Draw(t, "names"), "out")
			slices.Sort(names)
			for _, name := range slices.Compact(names) {
				d.Outputs = append(d.Outputs, Output{name, path.Draw(t, "output"), bytes.Draw(t, "algo"), "h" + bytes.Draw(t, "hash")})
			}
			for _, p := range pathSet(t, "inputs") {
				used := rapid.SliceOfN(bytes, 0, 3).Draw(t, "used")
				slices.Sort(used)
				d.Inputs = append(d.Inputs, Input{p, slices.Compact(used)})
			}
			d.Sources = pathSet(t, "sources")
		}
		roundTrip(t, d)

		c := &Closure{Roots: pathSet(t, "roots")}
		for _, p := range pathSet(t, "elements") {
			c.Elements = append(c.Elements, Element{p, pathSet(t, "references")})
		}
		roundTrip(t, c)
	})
}

func roundTrip(t *rapid.T, e Expr) {
	text := e.AppendText(nil)
	got, err := Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(e, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("want -, got +:\n%s\n%s", diff, text)
	}
}

func TestCores(t *testing.T) {
	for value, want := range map[string]int{"4": 4, "0": 0, "65536": 65536, "-1": -1, "": -1, "x": -1, "65537": -1} {
		d := &Derivation{Env: []EnvVar{{"__cores", value}}}
		n, ok, err := d.Cores()
		if want < 0 {
			if !errors.Is(err, store.ErrBadExpr) {
				t.Errorf("%q: %d, %v", value, n, err)
			}
		} else if n != want || !ok || err != nil {
			t.Errorf("%q: %d, %v, %v", value, n, ok, err)
		}
	}
	if n, ok, err := (&Derivation{}).Cores(); n != 1 || ok || err != nil {
		t.Errorf("without: %d, %v, %v", n, ok, err)
	}
}
