package storeexpr

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"storefs/store"
)

func TestHashModuloErrors(t *testing.T) {
	d := sound()
	_, err := d.HashModulo(func(store.Path) (Modulo, error) { return nil, store.ErrUnknown })
	if !errors.Is(err, store.ErrUnknown) || !strings.Contains(err.Error(), drvA) {
		t.Errorf("an input that is not known: %v", err)
	}
	_, err = d.HashModulo(func(store.Path) (Modulo, error) { return Modulo{"out": {}}, nil })
	wantError(t, err, `input `+drvB+`: it has no output "dev": malformed store expression`)
	_, err = sound2004().HashModulo(nil)
	wantError(t, err, `hash a derivation of 2004: its outputs are what it says: malformed store expression`)
	_, err = sound2004().OutputPaths(testDir, "a", nil)
	wantError(t, err, `hash a derivation of 2004: its outputs are what it says: malformed store expression`)
	if err := sound2004().CheckOutputs(testDir, "a", nil); err != nil {
		t.Errorf("2004: %v", err)
	}

	inputs := func(store.Path) (Modulo, error) { return Modulo{"out": {}, "dev": {}}, nil }
	d.Outputs[1].Algo, d.Outputs[1].Hash = "md5", strings.Repeat("0", 32)
	_, err = d.OutputPaths(testDir, "a", inputs)
	wantError(t, err, `output "out" has a hash but is not the only output: malformed store expression`)
	d.Outputs = d.Outputs[1:]
	d.Outputs[0].Name = "dev"
	_, err = d.OutputPaths(testDir, "a", inputs)
	wantError(t, err, `fixed output "dev": only "out" can be fixed: malformed store expression`)
	d.Outputs[0].Name, d.Outputs[0].Hash = "out", "0"
	err = d.FillOutputs(testDir, "a", inputs)
	wantError(t, err, `fixed output of "a": hash "0": 1 characters are no md5 digest in base 16, 32 or 64: malformed store expression`)
}

// A fixed output needs no inputs to be known: how it is fetched does not matter.
func TestHashModuloFixed(t *testing.T) {
	d := soundFixed("sha1", strings.Repeat("0", 40))
	never := func(p store.Path) (Modulo, error) {
		t.Errorf("asked for %s", p)
		return nil, store.ErrUnknown
	}
	if err := d.FillOutputs(testDir, "a", never); err != nil {
		t.Fatal(err)
	}
	m, err := d.HashModulo(never)
	if err != nil {
		t.Fatal(err)
	}
	want := store.HashOf(store.SHA256, []byte("fixed:out:sha1:"+strings.Repeat("0", 40)+":"+string(d.Outputs[0].Path)))
	if len(m) != 1 || m["out"] != want {
		t.Errorf("%v, want %v", m, want)
	}
}

// A graph of 100,000 derivations, the deepest that there can be: each is hashed
// once, from what is remembered of those before it.
func TestHashModuloMany(t *testing.T) {
	const n = 100_000
	modulo := make(map[store.Path]Modulo, n)
	inputs := func(p store.Path) (Modulo, error) {
		m, ok := modulo[p]
		if !ok {
			return nil, fmt.Errorf("%s: %w", p, store.ErrUnknown)
		}
		return m, nil
	}
	var last store.Path
	seen := make(map[store.Path]bool, n)
	for range n {
		d := &Derivation{Outputs: []Output{{Name: "out"}}, Platform: "p", Builder: "b"}
		if last != "" {
			d.Inputs = []Input{{last, []string{"out"}}}
		}
		if err := d.FillOutputs(testDir, "x", inputs); err != nil {
			t.Fatal(err)
		}
		var err error
		if last, err = d.Path(testDir, "x"); err != nil {
			t.Fatal(err)
		}
		if modulo[last], err = d.HashModulo(inputs); err != nil {
			t.Fatal(err)
		}
		seen[d.Outputs[0].Path] = true
	}
	if len(seen) != n {
		t.Errorf("%d different output paths of %d", len(seen), n)
	}
}
