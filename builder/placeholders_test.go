package builder

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"storefs/store"
	"storefs/storeexpr"
)

// What is replaced is what a strings.Replacer finds, wherever it stands.
func TestPlaceholders(t *testing.T) {
	d := &storeexpr.Derivation{}
	var pairs []string
	for _, name := range []string{"out", "dev"} {
		p := store.Path("/s/0123456789abcdfghijklmnpqrsvwxyz-" + name)
		d.Outputs = append(d.Outputs, storeexpr.Output{Name: name, Path: p})
		pairs = append(pairs, "/"+store.HashOf(store.SHA256, []byte("nix-output:"+name)).Base32(), string(p))
	}
	all := strings.NewReplacer(pairs...)
	out, dev := pairs[0], pairs[2]
	pieces := []string{"", "/", "a", "A", "=", "/s/0123456789abcdfghijklmnpqrsvwxyz-x", out, dev, out[1:], out[:52], out[:20], strings.Repeat("0", 52)}
	for _, a := range pieces {
		for _, b := range pieces {
			for _, c := range pieces {
				text := a + b + c
				p := placeholders{drv: d}
				if got, want := p.replace(text), all.Replace(text); got != want {
					t.Errorf("%s: %s, want %s", text, got, want)
				}
			}
		}
	}
}

// Each variable has what it was set to last.
func TestVariables(t *testing.T) {
	var v variables
	want := make(map[string]string)
	for i := range 100 {
		name := strings.Repeat("x", i*i%7)
		v.set(name, fmt.Sprint(i))
		want[name] = fmt.Sprint(i)
	}
	got := v.list()
	for name, value := range want {
		if !slices.Contains(got, name+"="+value) {
			t.Errorf("%s=%s is not in %q", name, value, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%q", got)
	}
}

// Arguments of any bytes come through a spec as they are.
func TestSpecKeepsBytes(t *testing.T) {
	for _, list := range [][]string{nil, {""}, {"", ""}, {"a", "", "\xff\xfe", "b\n"}} {
		text, err := json.Marshal(spec{Args: list})
		if err != nil {
			t.Fatal(err)
		}
		var s spec
		if err := json.Unmarshal(text, &s); err != nil || !slices.Equal(s.Args, list) {
			t.Errorf("%q: %q %v", list, s.Args, err)
		}
	}
}
