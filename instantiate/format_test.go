package instantiate

import (
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	got, err := Format("x.star", []byte("load( 'b.star','z' )\nx=derivation('a',\n   builder='/b') # why\ndef f( y ):\n  return y+1\n"))
	want := `load("b.star", "z")

x = derivation(
    "a",
    builder = "/b",
)  # why

def f(y):
    return y + 1
`
	if err != nil || string(got) != want {
		t.Errorf("got (%v)\n%s\nwant\n%s", err, got, want)
	}
	if again, err := Format("x.star", got); err != nil || string(again) != want {
		t.Errorf("formatting again changes it (%v):\n%s", err, again)
	}
	_, err = Format("x.star", []byte("x = (\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "format x.star:") {
		t.Errorf("got %v, want where it cannot be read", err)
	}
	got, err = Format("x.star", []byte(`x = ['é', 'it\'s', '"', '\\', r'\d', '''ü
"''']`))
	want = `x = ["é", "it's", '"', "\\", r"\d", '''ü
"''']
`
	if err != nil || string(got) != want {
		t.Errorf("got (%v)\n%s\nwant\n%s", err, got, want)
	}
	for _, odd := range []string{"x = \"a\\中\"\n", "x = " + strings.Repeat("-", 3_000_000) + "1\n", "x = 'a\xff'\n"} {
		if _, err = Format("x.star", []byte(odd)); err == nil || !strings.HasPrefix(err.Error(), "format x.star:") {
			t.Errorf("%.20q: got %v, want an error", odd, err)
		}
	}
}
