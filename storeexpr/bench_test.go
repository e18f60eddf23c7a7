package storeexpr

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
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

// The derivations in the directory STOREFS_TEST_DRVS, as those that a real Nix has made of
// a package collection.
func BenchmarkParseReal(b *testing.B) {
	dir := os.Getenv("STOREFS_TEST_DRVS")
	if dir == "" {
		b.Skip("STOREFS_TEST_DRVS names no directory with derivations")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.drv"))
	var texts [][]byte
	size := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		texts = append(texts, text)
		size += len(text)
	}
	if size == 0 {
		b.Fatalf("%s: no derivations", dir)
	}
	for _, c := range []struct {
		name string
		do   func([]byte) error
	}{
		{"parse", func(t []byte) error { _, err := Parse(t); return err }},
		{"SHA-256", func(t []byte) error { sha256.Sum256(t); return nil }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				for _, t := range texts {
					if err := c.do(t); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(size)/float64(len(texts)), "B/text")
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

// Many expressions one after the other, as a graph is read: of jobs with three
// inputs, and of packages with more in their environment.
func BenchmarkParseMany(b *testing.B) {
	for _, c := range []struct {
		name string
		more int
	}{{"small", 0}, {"typical", 40}} {
		b.Run(c.name, func(b *testing.B) {
			var texts [][]byte
			size := 0
			for i := range 10000 {
				d := &Derivation{
					Outputs:  []Output{{Name: "out", Path: storePath(i, "job")}},
					Platform: "x86_64-linux", Builder: string(storePath(0, "tools/bin/busybox")),
					Args: []string{"sh", "-c", fmt.Sprintf("echo %d > $out", i)},
				}
				var needs []string
				for j := range 3 {
					d.Inputs = append(d.Inputs, Input{storePath(i+j, "job.drv"), []string{"out"}})
					needs = append(needs, string(storePath(i+j, "job")))
				}
				for j := range c.more {
					d.Env = append(d.Env, EnvVar{fmt.Sprintf("a%02d", j), string(storePath(j, "package"))})
				}
				if c.more > 0 {
					d.Env = append(d.Env, EnvVar{"buildPhase", strings.Repeat("for f in \"$out\"/bin/*; do\n\tpatchShebangs \"$f\"\ndone\n", 10)})
				}
				d.Env = append(d.Env, EnvVar{"needs", strings.Join(needs, " ")}, EnvVar{"out", string(d.Outputs[0].Path)})
				texts = append(texts, d.AppendText(nil))
				size += len(texts[i])
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for _, t := range texts {
					if _, err := Parse(t); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(size)/float64(len(texts)), "B/text")
		})
	}
}
