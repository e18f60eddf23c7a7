package instantiate

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"storefs/storeexpr"
)

// Whatever a file says, evaluation ends, without a panic and the same way each
// time, and what it plans can be written to a store that checks.
func FuzzEval(f *testing.F) {
	seeds, err := filepath.Glob("testdata/nix/*.star")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds (%v)", err)
	}
	for _, name := range seeds {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	for _, s := range []string{
		`load("main.star", "x")`, `x = []` + "\n" + `x.append(x)` + "\n" + `default = x`,
		`default = {"a": derivation("n", "/b", env = {"k": [1, [], None, True]}, outputs = ["b", "a"])}`,
		`default = [text("t", source("src", include = ["**"])), glob(["**/*"]), json.decode("{}")]`,
		`d = derivation("n", "b", hash = "sha1:" + "0" * 40, kind = "regular")` + "\n" + `e = derivation("m", d, args = [d.drv, d.outputs])`,
		`print(struct(a = 1).a, arg("x", 1), read("main.star"), fail)`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1<<12 {
			t.Skip("a small file says as much")
		}
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"src/f": "x", "src/d/g": "#!"})
		if err := os.WriteFile(filepath.Join(dir, "main.star"), src, 0o644); err != nil {
			t.Fatal(err)
		}
		run := func() (*Plan, string) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			p, err := Eval(ctx, Options{Dir: "/nix/store", System: "x86_64-linux", File: filepath.Join(dir, "main.star"), MaxSteps: 10_000})
			if err != nil {
				return nil, err.Error()
			}
			return p, ""
		}
		p, msg := run()
		again, msg2 := run()
		if msg != msg2 || (p == nil) != (again == nil) {
			t.Fatalf("evaluated twice:\n%s\n%s", msg, msg2)
		}
		if strings.Contains(msg, "the interpreter failed") && !strings.Contains(string(src), "replace") {
			t.Fatal(msg) // only strings that are too long may do that
		}
		if p == nil {
			return
		}
		for i, x := range p.Exprs {
			if !bytes.Equal(x.Text(), again.Exprs[i].Text()) {
				t.Errorf("evaluated twice:\n%s\n%s", x.Text(), again.Exprs[i].Text())
			}
			if e, err := storeexpr.Parse(x.Text()); err != nil || e.(*storeexpr.Derivation).Check("/nix/store", x.Name[:len(x.Name)-len(".drv")]) != nil {
				t.Errorf("%s does not hold together: %v", x.Name, err)
			}
		}
		if err := p.Write(context.Background(), newMemory("/nix/store")); err != nil {
			t.Error(err)
		}
	})
}

// What was formatted can be formatted again.
func FuzzFormat(f *testing.F) {
	f.Add([]byte("x = [a for a in b if c] # d\n"))
	f.Add([]byte("def f(a, *b, **c):\n  'doc'\n  return lambda x: x\n"))
	f.Add([]byte("'ɲ'"))
	f.Add([]byte("x\\\n# d\n"))
	f.Add([]byte("'''\xed+020\n0'\xed+0+'\n'''"))
	f.Fuzz(func(t *testing.T, src []byte) {
		once, err := Format("x.star", src)
		if err != nil {
			return
		}
		twice, err := Format("x.star", once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("formatted once\n%s\nand twice (%v)\n%s", once, err, twice)
		}
	})
}
