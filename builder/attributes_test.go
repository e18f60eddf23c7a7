package builder

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"storefs/storeexpr"
)

func structured(text string) (attributes, error) {
	return readAttributes(&storeexpr.Derivation{Env: []storeexpr.EnvVar{{Name: "__json", Value: text}}})
}

// Half of a character would become another one, of which nobody hears.
func TestHalfCharacters(t *testing.T) {
	for _, text := range []string{
		`"\ud83d\ude00"`, `"\uD83D\uDE00\ud83d\ude00"`, `"\\ud83d"`, `"\\\\ude00"`, `"\ufffd"`, `"\"\u0041"`, `"\ue000\ud7ff"`,
	} {
		if _, err := structured(`{"a":` + text + `}`); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{
		`{"a":"\ud83d"}`, `{"a":"\ude00"}`, `{"a":"\ude00\ud83d"}`, `{"a":"\ud83d\ud83d\ude00"}`, `{"a":"\ud83dude00"}`,
		`{"a":"\ud83d\u0041"}`, `{"a":"\\\ud83d"}`, `{"a":["\ud83d","\ude00"]}`, `{"\ud83d":1}`,
	} {
		if _, err := structured(text); err == nil || !strings.Contains(err.Error(), "half a character") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Whatever a derivation has for structured attributes is refused, or given to the
// builder as it is.
func FuzzAttributes(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-0,1.50,1e3,-9223372036854775809,18446744073709551615],"b":{"c":null,"":true}}`,
		`{"a b":"\u0000\u001f\b\f\n\r\t\"\\\/é\ud83d\ude00","outputs":[],"x":[" ",0.5,false,[]]}`,
		`{"a":"\ud83d"}`, `{"a":1,"a":2}`, `{"a":1e400}`, `null`, `{}x`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := structured(text)
		if err != nil {
			return
		}
		_ = shellDeclarations(a.structured)
		written := appendJSON(nil, a.structured)
		again, err := structured(string(written))
		if err != nil {
			t.Fatalf("%q: %v", written, err)
		}
		if twice := appendJSON(nil, again.structured); !bytes.Equal(twice, written) {
			t.Fatalf("%q, then %q", written, twice)
		}
		// The same as package json has it, numbers being floats.
		var want, got any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(written, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %v, %v", written, got, err)
		}
		strange := strings.Contains(text, "\ufffd") || strings.Contains(strings.ToLower(text), `ufffd`)
		if !strange && bytes.ContainsRune(written, '\ufffd') {
			t.Fatalf("%q has a character that was not there", written)
		}
	})
}
