package storeexpr

import (
	"fmt"
	"strings"
	"testing"

	"storefs/store"
)

// typical is like a derivation of a package collection: some 4 kB, thirty
// inputs, fifty variables, two of them scripts.
func typical() *Derivation {
	d := &Derivation{
		Outputs:  []Output{{Name: "dev", Path: storePath(1, "hello-1.0-dev")}, {Name: "out", Path: storePath(2, "hello-1.0")}},
		Platform: "x86_64-linux",
		Builder:  string(storePath(3, "bash-5.1/bin/bash")),
		Args:     []string{"-e", string(storePath(4, "builder.sh"))},
		Sources:  []store.Path{storePath(4, "builder.sh"), storePath(5, "fix.patch")},
	}
	for i := range 30 {
		d.Inputs = append(d.Inputs, Input{storePath(10+i, fmt.Sprintf("package-%d.drv", i)), []string{"out"}})
	}
	for i := range 48 {
		d.Env = append(d.Env, EnvVar{fmt.Sprintf("variable%02d", i), string(storePath(10+i, "package"))})
	}
	script := strings.Repeat("for f in \"$out\"/bin/*; do\n\tpatchShebangs \"$f\"\ndone\n", 10)
	d.Env = append(d.Env, EnvVar{"w_installPhase", script}, EnvVar{"w_postInstall", script})
	return d
}

func storePath(n int, name string) store.Path {
	return store.Path(fmt.Sprintf("/nix/store/%032d-%s", n, name))
}

func BenchmarkParse(b *testing.B) {
	big := typical()
	for n := range 10000 {
		big.Inputs = append(big.Inputs, Input{storePath(1000+n, fmt.Sprintf("package-%d.drv", n)), []string{"out"}})
	}
	escapes := typical()
	escapes.Env = []EnvVar{{"text", strings.Repeat("\"\n", 1<<18)}}
	closure := &Closure{}
	for i := range 1000 {
		closure.Elements = append(closure.Elements, Element{Path: storePath(i, "package")})
		for j := range 5 {
			e := &closure.Elements[i]
			e.References = append(e.References, storePath(i+j*1000, "package"))
		}
	}
	small := typical()
	small.Inputs, small.Env = small.Inputs[:3], small.Env[:2]
	for _, c := range []struct {
		name string
		expr Expr
	}{
		{"typical", typical()},
		{"small", small},
		{"inputs", big},
		{"escapes", escapes},
		{"closure", closure},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := c.expr.AppendText(nil)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendText(b *testing.B) {
	d := typical()
	text := d.AppendText(nil)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		text = d.AppendText(text[:0])
	}
}

func BenchmarkHashModulo(b *testing.B) {
	d := typical()
	m := Modulo{"out": store.HashOf(store.SHA256, []byte("x"))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.HashModulo(func(store.Path) (Modulo, error) { return m, nil }); err != nil {
			b.Fatal(err)
		}
	}
}
