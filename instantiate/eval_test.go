package instantiate

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"storefs/store"
	"storefs/storeexpr"
)

// eval evaluates main.star among files.
func eval(t *testing.T, files map[string]string, opts Options) (*Plan, error) {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	opts.Dir, opts.System, opts.File = "/nix/store", "x86_64-linux", filepath.Join(dir, "main.star")
	plan, err := Eval(context.Background(), opts)
	if err != nil {
		err = shown{strings.ReplaceAll(err.Error(), dir+"/", ""), err}
	}
	return plan, err
}

// shown is an error without the directory that a test made.
type shown struct {
	text string
	err  error
}

func (s shown) Error() string { return s.text }
func (s shown) Unwrap() error { return s.err }

func mustEval(t *testing.T, main string) *Plan {
	t.Helper()
	plan, err := eval(t, map[string]string{"main.star": main}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// drv finds the derivation called name in a plan.
func drv(t *testing.T, p *Plan, name string) *storeexpr.Derivation {
	t.Helper()
	for _, x := range p.Exprs {
		if x.Name == name+".drv" {
			e, err := storeexpr.Parse(x.Text())
			if err != nil {
				t.Fatal(err)
			}
			return e.(*storeexpr.Derivation)
		}
	}
	t.Fatalf("the plan has no derivation %s", name)
	return nil
}

// However a path gets into a string, it becomes an input; what is evaluated
// and not used does not.
func TestDependenciesFromStrings(t *testing.T) {
	const lib = `
lib = derivation("lib", "/b", outputs = ["out", "dev"])
idle = derivation("idle", "/b")
`
	for name, use := range map[string]string{
		"plus":         `args = [lib + "/bin/x"]`,
		"plus before":  `args = ["-I" + lib]`,
		"percent":      `args = ["%s" % lib]`,
		"format":       `args = ["{}/x".format(lib)]`,
		"str":          `args = [str(lib)]`,
		"join":         `args = [":".join([lib.out, "x"])]`,
		"json":         `env = {"spec": json.encode({"deep": [{"lib": lib}]})}`,
		"value in env": `env = {"lib": lib}`,
		"list in env":  `env = {"libs": ["a", [lib]]}`,
		"only digest":  `env = {"digest": lib.out.split("/")[-1][:32]}`,
		"upper part":   `env = {"x": "prefix" + lib.out[len("/nix/store/"):]}`,
		"inputs":       `inputs = [lib]`,
		"inputs list":  `inputs = [[lib.out]]`,
	} {
		t.Run(name, func(t *testing.T) {
			plan := mustEval(t, lib+`default = derivation("app", "/b", `+use+`)`)
			app, libDrv := drv(t, plan, "app"), drv(t, plan, "lib")
			if len(app.Inputs) != 1 || app.Inputs[0].Path.Name() != "lib.drv" || !slices.Equal(app.Inputs[0].Outputs, []string{"out"}) {
				t.Errorf("inputs are %v, want output out of lib", app.Inputs)
			}
			if len(libDrv.Inputs) != 0 || len(plan.Exprs) != 2 {
				t.Errorf("the plan has %d derivations, want lib and app", len(plan.Exprs))
			}
		})
	}
	t.Run("builder", func(t *testing.T) {
		plan := mustEval(t, lib+`default = derivation("app", lib.dev + "/bin/cc", args = [lib])`)
		app := drv(t, plan, "app")
		if len(app.Inputs) != 1 || !slices.Equal(app.Inputs[0].Outputs, []string{"dev", "out"}) {
			t.Errorf("inputs are %v, want outputs dev and out of lib", app.Inputs)
		}
	})
}

// Of derivations with the same output the one that is named is the input, and else
// the first.
func TestSameOutput(t *testing.T) {
	lib := `
def fetch(url): return derivation("file", "/b", env = {"url": url}, hash = "sha256:` + strings.Repeat("0", 64) + `")
def unpack(file): return derivation("tree", "/b", outputs = ["out", "dev"], env = {"file": file})
one, two = fetch("one"), fetch("two")
one_tree, two_tree = unpack(one), unpack(two)
`
	for use, want := range map[string]string{
		`env = {"f": two}`:                               "two.drv",
		`env = {"f": ["x", (two,)]}`:                     "two.drv",
		`args = [two]`:                                   "two.drv",
		`inputs = [[two]]`:                               "two.drv",
		`env = {"f": two}, args = ["%s/x" % two]`:        "two.drv",
		`env = {"f": [two, one]}`:                        "one.drv two.drv",
		`env = {"f": two.path}`:                          "one.drv",
		`env = {"t": two_tree}, args = [two_tree.dev]`:   "two_tree.drv",
		`env = {"t": two_tree}, args = [one]`:            "one.drv two_tree.drv",
		`env = {"t": two_tree.drv}, inputs = [one_tree]`: "one_tree.drv two.drv two_tree.drv",
	} {
		plan := mustEval(t, lib+`
default = [one, two, one_tree, two_tree, derivation("user", "/b", `+use+`)]`)
		byPath := map[store.Path]string{}
		for i, name := range []string{"one.drv", "two.drv", "one_tree.drv", "two_tree.drv"} {
			byPath[plan.Targets[i].Drv] = name
		}
		var got []string
		for _, in := range drv(t, plan, "user").Inputs {
			got = append(got, byPath[in.Path])
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: the inputs are %s, want %s", use, s, want)
		}
	}
	plan := mustEval(t, lib+`default = derivation("user", two + "", env = {"b": two})`)
	if len(plan.Exprs) != 2 {
		t.Errorf("%d derivations, want two and user", len(plan.Exprs))
	}
}

func TestKinds(t *testing.T) {
	plan := mustEval(t, `
a = derivation("a", "/b", outputs = ["out", "man"], kinds = {"man": "regular"})
b = derivation("b", "/b", kind = "symlink")
c = derivation("c", "/b", hash = "sha256:`+strings.Repeat("0", 64)+`")
d = derivation("d", "/b", hash = "`+strings.Repeat("0", 40)+`", hash_algo = "sha1", hash_mode = "recursive", kind = "executable")
`)
	want := map[string]map[string]store.Kind{
		"a.drv": {"out": store.KindDirectory, "man": store.KindRegular},
		"b.drv": {"out": store.KindSymlink},
		"c.drv": {"out": store.KindRegular},
		"d.drv": {"out": store.KindExecutable},
	}
	if len(plan.Exprs) != len(want) {
		t.Errorf("%d derivations, want %d", len(plan.Exprs), len(want))
	}
	for _, x := range plan.Exprs {
		for o, kind := range want[x.Name] {
			if x.Kinds[o] != kind {
				t.Errorf("%s: output %s is a %s, want %s", x.Name, o, x.Kinds[o], kind)
			}
		}
	}
}

func TestTargets(t *testing.T) {
	const main = `
hello = derivation("hello", "/b", outputs = ["dev", "out"])
_hidden = derivation("hidden", "/b")
pkgs = struct(world = derivation("world", "/b"), deep = {"a.b/c": hello, "n": [hello.out]})
src = text("t", "x")
def f(): pass
number = 1
`
	for target, want := range map[string]string{
		"":                    "hello=hello.dev",
		"hello":               "hello=hello.dev",
		"hello.out":           "hello.out=hello.out",
		"hello.drv":           "hello.drv=hello.",
		"pkgs.world":          "pkgs.world=world.out",
		"pkgs.deep.a.b/c":     "pkgs.deep.a.b/c=hello.dev",
		"pkgs.deep.a.b/c.out": "pkgs.deep.a.b/c.out=hello.out",
		"pkgs":                "pkgs.deep.a.b/c=hello.dev pkgs.deep.n[0]=hello.out pkgs.world=world.out",
		"pkgs.deep.n.0":       "pkgs.deep.n.0=hello.out",
		"src":                 "src=t",
	} {
		plan, err := eval(t, map[string]string{"main.star": main}, Options{Target: target})
		if err != nil {
			t.Errorf("target %q: %v", target, err)
			continue
		}
		var got []string
		for _, x := range plan.Targets {
			s := x.Name + "=" + x.Path.Name()
			if x.Drv != "" {
				s = x.Name + "=" + strings.TrimSuffix(x.Drv.Name(), ".drv") + "." + x.Output
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("target %q is %s, want %s", target, s, want)
		}
	}
	for target, want := range map[string]string{
		"helo":           `main.star: no target "helo"; there is: hello, pkgs`,
		"_hidden":        `main.star: no target "_hidden"; there is: hello, pkgs`,
		"hello.x":        `main.star: no target "hello.x": hello has no "x"; there is: dev, out`,
		"pkgs.w":         `main.star: no target "pkgs.w": pkgs has no "w"; there is: deep, world`,
		"f":              `main.star: target f is of type function, not a derivation, a path, or a list, dict or struct of them`,
		"pkgs.deep.n.1":  `main.star: no target "pkgs.deep.n.1": pkgs.deep.n has no "1"; there is: 0`,
		"pkgs.deep.n.+0": `main.star: no target "pkgs.deep.n.+0": pkgs.deep.n has no "+0"; there is: 0`,
		"pkgs.deep.n.00": `main.star: no target "pkgs.deep.n.00": pkgs.deep.n has no "00"; there is: 0`,
		"pkgs.deep.n.x":  `main.star: no target "pkgs.deep.n.x": pkgs.deep.n has no "x"; there is: 0`,
		"number.x":       `main.star: no target "number.x": number has no "x"`,
		"pkgs.":          `main.star: no target "pkgs.": pkgs has no ""; there is: deep, world`,
		"pkgs.deep.n.0.": `main.star: no target "pkgs.deep.n.0.": pkgs.deep.n.0 has no ""`,
		"pkgs..world":    `main.star: no target "pkgs..world": pkgs has no ".world"; there is: deep, world`,
	} {
		_, err := eval(t, map[string]string{"main.star": main}, Options{Target: target})
		if err == nil || err.Error() != want {
			t.Errorf("target %q: got %v, want %s", target, err, want)
		}
	}
	plan := mustEval(t, main+"default = []\n")
	if len(plan.Targets) != 0 || len(plan.Exprs) != 0 {
		t.Errorf("an empty default gave %v", plan.Targets)
	}
}

// Whoever reads an error must see at once where it is and what is wrong.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ name, main, want string }{
		{"syntax", "x = (", "main.star:1:6: got end of file, want primary expression"},
		{"not UTF-8", "x = 'ü�'\ny = 'ü\xff'", "main.star:2:7: not UTF-8"},
		{"undefined", "\nx = nothing", "main.star:2:5: undefined: nothing"},
		{"fail", `fail("stop here")`, "main.star:1:5: fail: stop here"},
		{
			"in function", "def f(n):\n  return derivation(n, '/b')\nf('a b')",
			"main.star:2:20: derivation a b: the name \"a b.drv\" contains ' ', which is not one of A-Z a-z 0-9 + - . _ ? =: malformed store path\n" +
				"called from (outermost first):\n  main.star:3:2: in <toplevel>\n  main.star:2:20: in f",
		},
		{"recursion", "def f(): f()\nf()", "main.star:1:10: function f called recursively\ncalled from"},
		{"while", "def f():\n  while True: pass", "main.star:2:3: Starlark has no while: for i in range(n), with break, is what there is"},
		{"no derivation", "x = 1", "main.star: no global is a derivation, and none is called default"},
		{"drv name", "derivation('a.drv', '/b')", "main.star:1:11: derivation a.drv: the name \"a.drv\" ends with .drv"},
		{"no builder", "derivation('a', '')", "main.star:1:11: derivation a: derivation \"a\": it names no builder"},
		{"env name", "derivation('a', '/b', env = {'builder': 'x'})", `main.star:1:11: derivation a: env: "builder" cannot be set: it is an argument of derivation()`},
		{"env output", "derivation('a', '/b', env = {'out': 'x'})", `main.star:1:11: derivation a: env: "out" cannot be set: it holds the path of the output`},
		{"env empty", "derivation('a', '/b', env = {'': 'x'})", `main.star:1:11: derivation a: env: "" cannot be the name of a variable`},
		{"env assigned", "derivation('a', '/b', env = {'x=y': 'x'})", `main.star:1:11: derivation a: env: "x=y" cannot be the name of a variable: the builder would see one called "x"`},
		{"env NUL", "derivation('a', '/b', env = {'x\\0': 'x'})", `main.star:1:11: derivation a: env: "x\x00" cannot be the name of a variable: it contains a NUL`},
		{"env value NUL", "derivation('a', '/b', env = {'x': 'y\\0'})", `main.star:1:11: derivation a: derivation "a": variable "x" contains a NUL`},
		{"output assigned", "derivation('a', '/b', outputs = ['x=y'])", `main.star:1:11: derivation a: outputs: "x=y" cannot be the name of a variable`},
		{"env type", "derivation('a', '/b', env = {'x': {}})", `main.star:1:11: derivation a: env: "x": got dict, want`},
		{"env cycle", "x = []\nx.append(x)\nderivation('a', '/b', env = {'x': x})", "lists are nested too deeply"},
		{"output twice", "derivation('a', '/b', outputs = ['x', 'x'])", `derivation a: outputs: "x" is there twice`},
		{"output drv", "derivation('a', '/b', outputs = ['drv'])", `"drv" cannot be the name of an output`},
		{"no outputs", "derivation('a', '/b', outputs = [])", "derivation a: outputs: there must be one at least"},
		{"placeholder", "derivation('a', '/b', args = ['x' + placeholder('dev')], outputs = ['out', 'doc'])", `derivation a: it names placeholder("dev"), and has no such output; its outputs: out, doc`},
		{"placeholder as builder", "derivation('a', placeholder() + '/b')", `derivation a: builder: it names placeholder("out"), which is not there before it is built`},
		{"placeholder as input", "derivation('a', '/b', inputs = [placeholder()])", "derivation a: inputs: element 0 names nothing that this evaluation made"},
		{"placeholder in a text", "text('a', placeholder())", `text a: its content names placeholder("out"): a text can refer to sources and texts only; let a builder write it`},
		{"placeholder of nothing", "placeholder('')", "placeholder: the name of an output is not empty"},
		{"placeholder as a target", "p = placeholder()\ndefault = '/nix/store/' + p[-32:] + '-x'", "m42vipw92pr73vdgl6xs1hycac8kf2n9-x\" is not a store path of this evaluation"},
		{"kind", "derivation('a', '/b', kind = 'dir')", `derivation a: kind: got "dir", want "directory"`},
		{"kinds", "derivation('a', '/b', kinds = {'x': 'regular'})", `derivation a: kinds: "x" is not one of the outputs: out`},
		{"flat directory", "derivation('a', '/b', kind = 'directory', hash = 'sha256:" + strings.Repeat("0", 64) + "')", "the output's hash is that of a file, which cannot be a directory"},
		{"bad hash", "derivation('a', '/b', hash = 'sha256:00')", `hash "00": 2 characters are no sha256 digest`},
		{"hash without algo", "derivation('a', '/b', hash = '00')", `hash "00": say which it is by hash_algo`},
		{"other algo", "derivation('a', '/b', hash = 'sha256:" + strings.Repeat("0", 64) + "', hash_algo = 'sha1')", `it is not of hash_algo "sha1"`},
		{"algo alone", "derivation('a', '/b', hash_algo = 'sha1')", "hash_algo and hash_mode are of no use without hash"},
		{"hash mode", "derivation('a', '/b', hash = 'sha256:" + strings.Repeat("0", 64) + "', hash_mode = 'tree')", `hash_mode is "tree", want "flat" or "recursive"`},
		{"fixed outputs", "derivation('a', '/b', outputs = ['out', 'x'], hash = 'sha256:" + strings.Repeat("0", 64) + "')", "is not the only output"},
		{"input of nothing", "derivation('a', '/b', inputs = ['/bin/sh'])", `derivation a: inputs: element 0 names nothing that this evaluation made: "/bin/sh"`},
		{"two kinds", "derivation('a', '/b')\nderivation('a', '/b', kind = 'regular')", "derivation a: written twice, the same but for the kinds of its outputs"},
		{"attribute", "derivation('a', '/b').lib", "main.star:1:22: the derivation a has no output and no attribute .lib; its outputs: out"},
		{"plus", "derivation('a', '/b') + 1", "main.star:1:23: unknown binary op: derivation + int"},
		{"text of output", "text('t', derivation('a', '/b').out)", `main.star:1:5: text t: its content names output "out" of the derivation a: a text can refer to sources and texts only`},
		{"missing file", "read('gone')", "main.star:1:5: read: gone: no such file or directory"},
		{"no path", "source('')", "main.star:1:7: source: the path is empty (this directory is .)"},
		{"outside", "read('../x')", "main.star:1:5: read: ../x: outside of "},
		{"outside, from root", "load('//../x.star', 'y')", "main.star:1:1: cannot load //../x.star: ../x.star: outside of "},
		{"absolute", "read('/etc/passwd')", "main.star:1:5: read: /etc/passwd: an absolute path that is not at or below one given by --arg"},
		{"absolute load", "load('/x.star', 'y')", "main.star:1:1: cannot load /x.star: /x.star: an absolute path"},
		{"link out", "read('link/passwd')", "main.star:1:5: read: link/passwd: path escapes from parent"},
		{"source through link out", "source('link/passwd')", "main.star:1:7: source link/passwd: link: path escapes from parent"},
		{"directory", "read('dir')", "main.star:1:5: read: dir: not a regular file"},
		{"source name", "source('.-x')", "main.star:1:7: source .-x: the name \".-x\" is one of ., .., .-… and ..-…: malformed store path; give it another one by name="},
		{"nothing included", "source('dir', include = ['*.c'])", "nothing in it matches include"},
		{"filtered link", "source('link', include = ['*.c'])", "link: a symbolic link, which is stored as one: include and exclude are for directories"},
		{"filtered file", "source('f', include = ['*.c'])", "include and exclude are for directories"},
		{"pattern", "glob(['../*'])", `main.star:1:5: glob: pattern "../*": leads upwards`},
		{"bad pattern", "glob(['[a'])", `main.star:1:5: glob: pattern "[a": syntax error in pattern`},
		{"arg", "arg('x')", `main.star:1:4: arg: "x" has no default and was not given: use --arg x=VALUE`},
		{"load missing", "load('gone.star', 'x')", "main.star:1:1: cannot load gone.star: no such file or directory"},
		{"load syntax", "load('bad.star', 'x')", "bad.star:1:1: unexpected ')'\ncalled from (outermost first):\n  main.star:1:1: in <toplevel>"},
		{"load fails", "load('fails.star', 'x')", "fails.star:1:9: fail: no\ncalled from (outermost first):\n  main.star:1:1: in <toplevel>\n  fails.star:1:9: in <toplevel>"},
		{"load cycle", "load('a.star', 'x')", "b.star:1:1: cannot load a.star: files load each other: a.star → b.star → a.star\n"},
		{"load itself", "load('main.star', 'x')", "main.star:1:1: cannot load main.star: files load each other: main.star → main.star"},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, err := eval(t, map[string]string{
				"main.star": c.main, "bad.star": ")", "fails.star": "x = fail('no')",
				"a.star": "load('b.star', 'x')", "b.star": "load('a.star', 'x')",
				"link": "->/etc", "dir/file": "x", "f": "x", ".-x": "x",
			}, Options{})
			if err == nil {
				t.Fatalf("no error, but %d targets", len(plan.Targets))
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%T is not an *Error", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got\n%s\nwant\n%s", err, c.want)
			}
		})
	}
	_, err := eval(t, map[string]string{"main.star": "read('gone')"}, Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not wrap fs.ErrNotExist", err)
	}
}

func TestLimits(t *testing.T) {
	_, err := eval(t, map[string]string{"main.star": "x = [None for _ in range(1000000000)]"}, Options{MaxSteps: 10_000})
	if err == nil || !strings.Contains(err.Error(), "main.star:1:11: Starlark computation cancelled: more than 10000 steps") {
		t.Errorf("got %v, want that there were too many steps", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"main.star": "def f():\n  for _ in range(1000000000): pass\nf()"})
	_, err = Eval(ctx, Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star"), MaxSteps: 1 << 60})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

// What takes too much memory ends.
func TestMemory(t *testing.T) {
	const most = 64 << 20
	_, err := eval(t, map[string]string{"main.star": `
def f():
    all = []
    for i in range(1000000000):
        all.append("x" * 1000000 + str(i))
f()`}, Options{MaxSteps: 50_000, MaxMemory: most})
	if err == nil || !strings.HasPrefix(err.Error(), "main.star:") || !strings.Contains(err.Error(), "more than 64 MiB of memory") {
		t.Errorf("got %v, want that it took too much memory", err)
	}
}

// A function that nothing can end is left when evaluation is to.
func TestInterruptedInFunction(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"main.star": "print('x')"})
	left := make(chan struct{})
	defer close(left)
	ended := make(chan error)
	go func() {
		_, err := Eval(ctx, Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star"), Print: func(string) {
			cancel()
			<-left
		}})
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	case <-time.After(time.Minute):
		t.Error("evaluation goes on")
	}
}

// Go ends a process whose stack grows too large.
func TestNestedTooDeeply(t *testing.T) {
	const wrap = `
def wrap(x, n):
    for i in range(n):
        x = WRAP
    return x
g = `
	for name, c := range map[string][2]string{
		"list":     {"[x]", "wrap([], 20000)"},
		"dict":     {"{1: x}", "wrap([], 20000)"},
		"struct":   {"struct(a = 1, b = x)", "wrap([], 20000)"},
		"tuple":    {"(1, x)", "wrap((), 20000)"},
		"key":      {"(1, x)", "{wrap((), 20000): 1}"},
		"function": {"[x]", "(lambda x: lambda: x)(wrap([], 20000))"},
		"default":  {"[x]", "(lambda y = wrap([], 20000): y)"},
		"method":   {"[x]", "wrap([], 20000).append"},
		"json":     {"x", `json.decode("[" * 20000 + "]" * 20000)`},
	} {
		_, err := eval(t, map[string]string{"main.star": strings.Replace(wrap, "WRAP", c[0], 1) + c[1]}, Options{})
		if err == nil || !strings.Contains(err.Error(), "nested too deeply") {
			t.Errorf("%s: got %v, want that it is nested too deeply", name, err)
		}
	}
	// What is wide, or not in a global, or there many times, is not deep.
	mustEval(t, strings.Replace(wrap, "WRAP", "[x]", 1)+`[[i, [i]] for i in range(20000)]
n = len(wrap([], 20000))
t = wrap([], 5000)
u = [t, [t, wrap(t, 4000)]]
self = []
self.append(self)
j = json.decode(json.encode({"a": ["[" * 20000, '\\"[{' * 20000]}))
default = []`)
}

// A file sees its own neighbours, also when another file calls its functions.
func TestRelativePaths(t *testing.T) {
	var printed []string
	plan, err := eval(t, map[string]string{
		"main.star": `
load("lib/lib.star", "mine", "names")
load("//lib/deep/up.star", "up")
print(mine(), read("data"), names, up)
default = text("t", mine())`,
		"data": "of main", "lib/data": "of lib", "lib/a/b.x": "", "lib/c.x": "", "lib/skip/d.x": "", "lib/l.x": "->gone",
		"lib/lib.star": `
names = glob(["**/*.x"], exclude = ["skip"])
def mine(): return read("data")`,
		"lib/deep/up.star": `up = read("../data") + read("//data")`,
	}, Options{Print: func(line string) { printed = append(printed, line) }})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Texts[0].Content != "of lib" {
		t.Errorf("the text is %q", plan.Texts[0].Content)
	}
	want := `main.star:4:6: of lib of main ["a/b.x", "c.x", "l.x"] of libof main`
	if len(printed) != 1 || !strings.HasSuffix(printed[0], want) {
		t.Errorf("printed %q, want %q", printed, want)
	}
}

// Names need not be UTF-8.
func TestGlobOfAnyName(t *testing.T) {
	plan, err := eval(t, map[string]string{
		"main.star": `default = text("t", "|".join(glob(["**"], exclude = ["**/out", "*.star"])))`,
		"d\xff/f":   "", "d\xff/out/f": "", "é/\x80x": "", "é/l": "->gone", "top": "",
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := plan.Texts[0].Content, "d\xff/f|top|é/l|é/\x80x"; got != want {
		t.Errorf("the files are %q, want %q", got, want)
	}
}

func TestArgs(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"sub/f": "given"})
	plan, err := eval(t, map[string]string{
		"main.star": `
default = text("t", read(arg("dir") + "/sub/f") + arg("other", "fallback"))
source(arg("dir"), name = "unused")`,
	}, Options{Args: map[string]string{"dir": dir, "typo": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if c := plan.Texts[0].Content; c != "givenfallback" {
		t.Errorf("the text is %q", c)
	}
	if !slices.Equal(plan.Unused, []string{"typo"}) {
		t.Errorf("unused arguments are %q, want typo", plan.Unused)
	}
	if want := []string{dir, filepath.Join(dir, "sub/f")}; !slices.Equal(plan.External, want) {
		t.Errorf("external paths are %q, want %q", plan.External, want)
	}
	if len(plan.Sources) != 0 {
		t.Errorf("the plan has a source that no target needs")
	}
}

func TestSplitTarget(t *testing.T) {
	for arg, want := range map[string][2]string{
		"a.star":            {"a.star", ""},
		"d/a.star:x":        {"d/a.star", "x"},
		"d:e/a.star:x.y:z":  {"d:e/a.star", "x.y:z"},
		"a.star:":           {"a.star", ""},
		"odd.star:b.star:x": {"odd.star:b.star", "x"},
	} {
		file, target, ok := SplitTarget(arg)
		if !ok || file != want[0] || target != want[1] {
			t.Errorf("SplitTarget(%q) = %q, %q, %v", arg, file, target, ok)
		}
	}
	if _, _, ok := SplitTarget("/nix/store/x.drv"); ok {
		t.Error("a derivation is taken for a Starlark file")
	}
}
