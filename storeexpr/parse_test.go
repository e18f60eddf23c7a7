package storeexpr

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"storefs/store"
)

const (
	hexA = "/nix/store/0123456789abcdef0123456789abcdef-a"
	hexB = "/nix/store/fedcba9876543210fedcba9876543210-b"
)

// Texts of each form, as they must come out again.
var texts = map[string]struct {
	text string
	want Expr
}{
	"2004": {
		`Derive(["` + hexA + `"],["` + hexB + `","` + hexB + `2"],"i686-linux","/bin/sh",["-e","-x"],[("PATH",""),("out","` + hexA + `")])`,
		&Derivation{
			Form: Form2004, Outputs: []Output{{Path: hexA}}, Inputs: []Input{{Path: hexB}, {Path: hexB + "2"}},
			Platform: "i686-linux", Builder: "/bin/sh", Args: []string{"-e", "-x"}, Env: []EnvVar{{"PATH", ""}, {"out", hexA}},
		},
	},
	"2004, several outputs, nothing else": {
		`Derive(["` + hexA + `","` + hexB + `"],[],"","",[],[])`,
		&Derivation{Form: Form2004, Outputs: []Output{{Path: hexA}, {Path: hexB}}},
	},
	"closure": {
		`Closure(["` + hexA + `"],[("` + hexA + `",["` + hexA + `","` + hexB + `"]),("` + hexB + `",[])])`,
		&Closure{Roots: []store.Path{hexA}, Elements: []Element{{hexA, []store.Path{hexA, hexB}}, {Path: hexB}}},
	},
	"empty closure": {`Closure([],[])`, &Closure{}},
	"today": {
		`Derive([("dev","/s/a-dev","",""),("out","/s/a","","")],[("/s/b.drv",["dev","out"]),("/s/c.drv",["out"])],["/s/d","/s/e"],"x86_64-linux","/s/b/bin/sh",["-c",""],[("dev","/s/a-dev"),("out","/s/a")])`,
		&Derivation{
			Outputs: []Output{{Name: "dev", Path: "/s/a-dev"}, {Name: "out", Path: "/s/a"}},
			Inputs:  []Input{{"/s/b.drv", []string{"dev", "out"}}, {"/s/c.drv", []string{"out"}}},
			Sources: []store.Path{"/s/d", "/s/e"}, Platform: "x86_64-linux", Builder: "/s/b/bin/sh",
			Args: []string{"-c", ""}, Env: []EnvVar{{"dev", "/s/a-dev"}, {"out", "/s/a"}},
		},
	},
	"today, fixed, nothing else": {
		`Derive([("out","/s/a","r:sha256","00ff")],[],[],"","",[],[])`,
		&Derivation{Outputs: []Output{{"out", "/s/a", "r:sha256", "00ff"}}},
	},
	"escapes": {
		`Derive([("out","/s/a","","")],[],[],"\n\\n","\"",["\\","\\\\","\t\r\n\"","ends in \\","` + "\xff\x00\xc3é" + `"],[("\"=",",)]([")])`,
		&Derivation{
			Outputs: []Output{{Name: "out", Path: "/s/a"}}, Platform: "\n\\n", Builder: `"`,
			Args: []string{`\`, `\\`, "\t\r\n\"", `ends in \`, "\xff\x00\xc3é"}, Env: []EnvVar{{`"=`, ",)](["}},
		},
	},
}

func TestParse(t *testing.T) {
	for name, c := range texts {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if text := string(got.AppendText([]byte("kept"))); text != "kept"+c.text {
				t.Errorf("written back as\n%s\nwas\n%s", text, c.text)
			}
		})
	}
}

// The result does not change when the bytes that it was read from do.
func TestParseKeepsNothing(t *testing.T) {
	for name, c := range texts {
		data := []byte(c.text)
		got, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		clear(data)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", name, diff)
		}
	}
}

// Lists that were cut out of one array do not grow into each other.
func TestParseListsAreApart(t *testing.T) {
	e, err := Parse([]byte(texts["today"].text))
	if err != nil {
		t.Fatal(err)
	}
	d := e.(*Derivation)
	d.Inputs[0].Outputs = append(d.Inputs[0].Outputs, "x")
	d.Inputs[1].Outputs = append(d.Inputs[1].Outputs, "y")
	if d.Inputs[1].Outputs[0] != "out" || d.Args[0] != "-c" {
		t.Errorf("appending to a list changed the one behind it: %q %q", d.Inputs, d.Args)
	}
}

func TestParseSorts(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{
			`Derive([("out","/o","",""),("dev","/d","","")],[("/c.drv",["out","dev"]),("/b.drv",["out"])],["/e","/d"],"s","b",["z","a","z"],[("b","1"),("a","2"),("B","3")])`,
			`Derive([("dev","/d","",""),("out","/o","","")],[("/b.drv",["out"]),("/c.drv",["dev","out"])],["/d","/e"],"s","b",["z","a","z"],[("B","3"),("a","2"),("b","1")])`,
		},
		{
			`Derive(["/b","/a"],["/d","/c"],"s","b",[],[])`,
			`Derive(["/a","/b"],["/c","/d"],"s","b",[],[])`,
		},
		{
			`Closure(["/b","/a"],[("/b",["/b","/a"]),("/a",[])])`,
			`Closure(["/a","/b"],[("/a",[]),("/b",["/a","/b"])])`,
		},
	} {
		e, err := Parse([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if got := string(e.AppendText(nil)); got != c.want {
			t.Errorf("%s\nis written as\n%s\nwant\n%s", c.text, got, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, `byte 0: expected "Derive(" or "Closure(", found the end of the text`},
		{`Deriv`, `byte 0: expected "Derive(" or "Closure(", found "Deriv"`},
		{" Derive([])", `byte 0: expected "Derive(" or "Closure(", found " Derive([]"…`},
		{"\x7fELF\x02\x01\x01\x00\x00\x00\x00", `byte 0: expected "Derive(" or "Closure(", found "\x7fELF\x02\x01\x01\x00\x00\x00"…`},
		{`DrvWithVersion("xp-dyn-drv",[])`, `byte 0: a dynamic derivation (DrvWithVersion) is not supported`},
		{`Derive(`, `byte 7: expected "[", found the end of the text`},
		{`Derive("a")`, `byte 7: expected "[", found "\"a\")"`},
		{`Derive([`, `byte 8: expected an output, '"' or '(', found the end of the text`},
		{`Derive([ ("out"`, `byte 8: expected an output, '"' or '(', found " (\"out\""`},
		{`Derive([],[],[],"","",[],[])`, `byte 7: a derivation without outputs`},
		{`Derive([("out")],`, `byte 14: expected ",", found ")],"`},
		{`Derive([("out","a","","")],`, `byte 8: "a" is not an absolute path`},
		{`Derive([("out","","","")],`, `byte 8: output "out" has no path: it depends on how something else is built, which is not supported`},
		{`Derive([("out","","r:sha256","")],`, `byte 8: output "out" is floating content-addressed, which is not supported`},
		{`Derive([("out","","r:sha256","impure")],`, `byte 8: output "out" is impure, which is not supported`},
		{`Derive([("a","/a","",""),("out","","","")],`, `byte 25: output "out" has no path: it depends on how something else is built, which is not supported`},
		{`Derive([("a","/a","",""),("a","/b","","")],`, `byte 7: "a" occurs twice in the list of outputs that begins here`},
		{`Derive([("a","/a","",""),]`, `byte 25: expected "(", found "]"`},
		{`Derive([("a","/a","","")("b"`, `byte 24: expected "," or "]", found "(\"b\""`},
		{`Derive([("a","/a","","")],[("b",["out"])]`, `byte 28: "b" is not an absolute path`},
		{`Derive([("a","/a","","")],[("/b",["out","dev","out"])]`, `byte 33: "out" occurs twice in the list of used outputs that begins here`},
		{`Derive([("a","/a","","")],[("/b",["out"]),("/b",["dev"])]`, `byte 26: "/b" occurs twice in the list of inputs that begins here`},
		{`Derive([("a","/a","","")],[("/b","out")]`, `byte 33: expected "[", found "\"out\")]"`},
		{`Derive([("a","/a","","")],["/b"]`, `byte 27: expected "(", found "\"/b\"]"`},
		{`Derive([("a","/a","","")],[],["/b","/b"]`, `byte 29: "/b" occurs twice in the list of sources that begins here`},
		{`Derive([("a","/a","","")],[],[""]`, `byte 30: "" is not an absolute path`},
		{`Derive([("a","/a","","")],[],[],"a`, `byte 32: the string that begins here does not end`},
		{`Derive([("a","/a","","")],[],[],"a\`, `byte 32: the string that begins here does not end`},
		{`Derive([("a","/a","","")],[],[],"a\"`, `byte 32: the string that begins here does not end`},
		{`Derive([("a","/a","","")],[],[],"a\"b\n`, `byte 32: the string that begins here does not end`},
		{`Derive([("a","/a","","")],[],[],"a\x"`, `byte 34: "\\x" is no escape, only \" \\ \n \r \t are`},
		{`Derive([("a","/a","","")],[],[],"a\"\0"`, `byte 36: "\\0" is no escape, only \" \\ \n \r \t are`},
		{`Derive([("a","/a","","")],[],[],"","",[],[("b","1"),("a",""),("b","2")])`, `byte 41: "b" occurs twice in the list of variables that begins here`},
		{`Derive([("a","/a","","")],[],[],"","",[],[("b","1")]`, `byte 52: expected ")", found the end of the text`},
		{`Derive([("a","/a","","")],[],[],"","",[],[("b","1")]) `, `byte 53: the expression ends, but " " follows`},
		{`Derive([("a","/a","","")],[],[],"","",[],[])Derive(`, `byte 44: the expression ends, but "Derive(" follows`},
		{`Derive(["/a","/a"],[],"","",[],[])`, `byte 7: "/a" occurs twice in the list of outputs that begins here`},
		{`Derive(["/a"],["/b","/b"],"","",[],[])`, `byte 14: "/b" occurs twice in the list of inputs that begins here`},
		{`Derive(["/a"],[("/b",[])],"","",[],[])`, `byte 15: expected "\"", found "(\"/b\",[])]"…`},
		{`Derive(["a"],[],"","",[],[])`, `byte 8: "a" is not an absolute path`},
		{`Derive(["/a"],[],[],"","",[],[])`, `byte 17: expected "\"", found "[],\"\",\"\",["…`},
		{`Closure(["/a","/a"],[])`, `byte 8: "/a" occurs twice in the list of roots that begins here`},
		{`Closure([],[("/a",[]),("/a",[])])`, `byte 11: "/a" occurs twice in the list of elements that begins here`},
		{`Closure([],[("/a",["/b","/b"])])`, `byte 18: "/b" occurs twice in the list of references that begins here`},
		{`Closure([],[("/a",[["/b"]])])`, `byte 19: expected "\"", found "[\"/b\"]])])"`},
		{`Closure(` + strings.Repeat("[", 1000), `byte 9: expected "\"", found "[[[[[[[[[["…`},
	} {
		e, err := Parse([]byte(c.text))
		wantError(t, err, c.want+": malformed store expression")
		if e != nil {
			t.Errorf("%s: an expression beside the error %v", c.text, err)
		}
	}
}

// Every text that stops too early is an error, and says so at an offset within
// the text.
func TestParseTruncated(t *testing.T) {
	for name, c := range texts {
		for n := range len(c.text) {
			_, err := Parse([]byte(c.text[:n]))
			if !errors.Is(err, store.ErrBadExpr) {
				t.Fatalf("%s, first %d bytes: %v", name, n, err)
			}
			var at int
			if _, err := fmt.Sscanf(err.Error(), "byte %d:", &at); err != nil || at < 0 || at > n {
				t.Errorf("%s, first %d bytes: no offset in %q", name, n, err)
			}
		}
	}
}

func TestParseLimits(t *testing.T) {
	head, tail := `Derive([("out","/o","","")],[],[],"","",[`, `],[])`
	filled := func(size int) []byte {
		return []byte(head + `"` + strings.Repeat("x", size-len(head)-len(tail)-2) + `"` + tail)
	}
	if _, err := Parse(filled(MaxSize)); err != nil {
		t.Errorf("MaxSize bytes: %v", err)
	}
	_, err := Parse(filled(MaxSize + 1))
	wantError(t, err, fmt.Sprintf("%d bytes are more than the %d that an expression may have: malformed store expression", MaxSize+1, MaxSize))

	list := func(n int) []byte { return []byte(head + strings.Repeat(`"",`, n-1) + `""` + tail) }
	if _, err := Parse(list(MaxItems - 1)); err != nil { // and one output
		t.Errorf("MaxItems elements: %v", err)
	}
	_, err = Parse(list(MaxItems))
	wantError(t, err, fmt.Sprintf("byte %d: the lists have more than %d elements: malformed store expression", len(head)+3*(MaxItems-1), MaxItems))

	// Many short lists count like one long one.
	_, err = Parse([]byte(`Closure([],[` + strings.Repeat(`("/a",["/"]),`, MaxItems/2+1)))
	if !errors.Is(err, store.ErrBadExpr) || !strings.Contains(err.Error(), "the lists have more than") {
		t.Errorf("many lists: %v", err)
	}
}

// A hostile text costs a bounded multiple of its size, here one of parentheses
// that could be variables and are not.
func TestParseMemory(t *testing.T) {
	text := []byte(`Derive([("out","/o","","")],[],[],"","",[],[("a","` + strings.Repeat("(", 16<<20) + `")])`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Parse(text); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2*uint64(len(text)) {
		t.Errorf("%d bytes of text took %d bytes of memory", len(text), n)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range texts {
		f.Add([]byte(c.text))
		f.Add([]byte(c.text[:len(c.text)/2]))
	}
	f.Add(typical().AppendText(nil))
	f.Add([]byte(`Derive([("out","/o","",""),("dev","/d","","")],[],["/e","/d"],"s","b",["z","a"],[("b","1"),("a","2")])`))
	f.Add([]byte(`Derive([("out","","r:sha256","")],[],[],"s","b",[],[])`))
	f.Add([]byte(`Derive([("out","/o","","")],[],[],"\x","",[],[])`))
	f.Add([]byte(`DrvWithVersion("xp-dyn-drv",[])`))
	f.Add([]byte(`Derive([("out","/o","",""),("a","/o","","")],[("/b.drv",["out"]),("/a.drv",["out","dev"]),("/c.drv",["out"],)],[],"a\\\\","\\",["12345678\n","\t\t1234567\r\"],"],[],[("x)],","(((")])`))
	f.Fuzz(func(t *testing.T, data []byte) {
		sameAsReference(t, data)
		given := bytes.Clone(data)
		e, err := Parse(data)
		if !bytes.Equal(data, given) {
			t.Errorf("it has written to its text: %q, which was %q", data, given)
		}
		if err != nil {
			if !errors.Is(err, store.ErrBadExpr) || strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line of store.ErrBadExpr: %q", err)
			}
			return
		}
		text := e.AppendText(nil)
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, text)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Errorf("read again it differs:\n%s", diff)
		}
		if second := again.AppendText(nil); string(second) != string(text) {
			t.Errorf("written again it differs:\n%s\nwas\n%s", second, text)
		}
		// Whatever was read can be checked and named without a panic.
		switch e := e.(type) {
		case *Derivation:
			_ = e.Check("/nix/store", "x")
			_, _ = e.Path("/nix/store", "x")
			_ = e.CheckOutputs("/nix/store", "x", func(store.Path) (Modulo, error) { return nil, store.ErrUnknown })
		case *Closure:
			_ = e.Check("/nix/store")
			_, _ = e.Path("/nix/store", FormToday)
		}
	})
}
