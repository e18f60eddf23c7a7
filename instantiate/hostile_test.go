package instantiate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.starlark.net/starlark"
)

// What would end the process, or never end, is an error of one line that says where.
func TestHostile(t *testing.T) {
	grow := "def f():\n    x = ()\n    for i in range(5000000):\n        x = %s\n    return %s\nf()"
	double := "def f():\n    x = %s\n    for i in range(60):\n        x = [x, x] if type(x) == 'list' else (x, x)\n    return %s\n%sf()"
	for _, c := range []struct{ name, src, where, what string }{
		{"printed", fmt.Sprintf(grow, "(x,)", "str(x)"), "main.star:", "nested too deeply"},
		{"encoded", fmt.Sprintf(grow, "[x]", "json.encode(x)"), "main.star:", "nested too deeply"},
		// Each is in a list that is looked at first: it is deep nevertheless.
		{"in a list", "def f():\n    all = [()]\n    for i in range(5000000):\n        all.append((all[-1],))\n    return str(all[-1])\nf()", "main.star:", "nested too deeply"},
		// Nobody but the function itself can reach what a dropped one has captured.
		{"captured", "def f():\n    x = ()\n    def g():\n        return x\n    g = None\n    for i in range(5000000):\n        x = (x,)\n    return str(x)\nf()", "main.star:", "nested too deeply"},
		{"a global", "all = []\ndef f():\n    for i in range(5000000):\n        all.append((all.pop() if all else (),))\n    return str(all)\nf()", "main.star:", "nested too deeply"},

		{"sums", "x = 1" + strings.Repeat(" + 1", 100_000), "main.star:1:", "nested too deeply"},
		{"calls", "x = 1\ny = x" + strings.Repeat("()", 100_000), "main.star:2:", "nested too deeply"},
		{"elif", "if 1:\n    pass\n" + strings.Repeat("elif 1:\n    pass\n", 50_000), "main.star:", "nested too deeply"},
		{"clauses", "x = [1 for a in [1]" + strings.Repeat(" if 1", 100_000) + "]", "main.star:1:5", "nested too deeply"},
		{"functions", functions(11_000), "main.star:", "more than 10000 functions call each other"},

		{"twice in itself, hashed", fmt.Sprintf(double, "()", "{x: 1}", ""), "main.star:", "one operation takes more than 200ms"},
		{"a large number", "def f():\n    x = 3\n    for i in range(60):\n        x = x * x\nf()", "main.star:", "one operation takes more than 200ms"},
		{"a long range", "x = max(range(1 << 62))", "main.star:", "one operation takes more than 200ms"},
		{"twice in itself, in a text", fmt.Sprintf(double, "[]", "text('t', x)", ""), "main.star:5:", "more than 2000000 elements"},
		{"twice in itself, as inputs", fmt.Sprintf(double, "[]", "derivation('n', '/b', inputs = x)", ""), "main.star:5:", "more than 2000000 elements"},
		{"twice in itself, as targets", fmt.Sprintf(double, "[]", "x", "default = "), "main.star", "more than 1000000 targets"},
		{"a copy of a long range", "x = list(range(1 << 40))", "main.star:1:9", "more than fit in memory"},
		{"the same, by name", "x = sorted(iterable = range(1 << 40))", "main.star:1:11", "more than fit in memory"},
		{"its pairs", "x = enumerate(range(1 << 60))", "main.star:1:14", "more than fit in memory"},
		{"too long a string", "x = ('a' * (1 << 25)).replace('a', 'b' * (1 << 25))", "main.star:1:", "the interpreter failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{}
			if strings.Contains(c.what, "200ms") {
				o.MaxOperation = 200 * time.Millisecond
			}
			_, err := eval(t, map[string]string{"main.star": c.src}, o)
			if err == nil {
				t.Fatal("it was evaluated")
			}
			line, trace, _ := strings.Cut(err.Error(), "\n")
			if !strings.HasPrefix(line, c.where) || !strings.Contains(line, c.what) || trace != "" && !strings.HasPrefix(trace, "called from") {
				t.Errorf("got\n%.500v\nwant %s at %s", err, c.what, c.where)
			}
			if strings.Count(trace, "\n") > maxTrace+1 {
				t.Errorf("a trace of %d lines", strings.Count(trace, "\n"))
			}
		})
	}
}

// A value is seen wherever a function has it: what was taken out of a list, and is to be put
// back in another one, is in no variable.
func TestInHand(t *testing.T) {
	for _, src := range []string{
		"def f():\n    return (box.pop(), look())\nf()",
		"def f():\n    x = 1\n    box.append((box.pop(), look()))\nf()",
		"def f():\n    x = box.pop()\n    look()\nf()",
		"def f():\n    x = box.pop()\n    def g():\n        return x\n    look()\nf()",
		"def f():\n    g(box.pop(), [look() for i in range(1)])\ndef g(x, y):\n    pass\nf()",
		"def f():\n    return (box.pop(), g())\ndef g():\n    look()\nf()",
		"box.append((box.pop(), look()))",
	} {
		for _, c := range []struct {
			depth int
			want  bool
		}{{maxLive - 10, false}, {maxLive + 1, true}} {
			var deep starlark.Value = starlark.Tuple{}
			for range c.depth {
				deep = starlark.Tuple{deep}
			}
			looks, seen := 0, false
			look := func(t *starlark.Thread, _ *starlark.Builtin, _ starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
				looks++
				seen = new(evaluation).tooDeep(t, new(depths))
				return starlark.None, nil
			}
			_, err := starlark.ExecFileOptions(&dialect, new(starlark.Thread), "main.star", src, starlark.StringDict{
				"box":  starlark.NewList([]starlark.Value{deep}),
				"look": starlark.NewBuiltin("look", look),
			})
			if err != nil || looks != 1 || seen != c.want {
				t.Errorf("%q: %d values in each other: too deep: %v, looked %d times (%v)", src, c.depth, seen, looks, err)
			}
		}
	}
}

// What is small, and has nothing in it that is not, is not remembered: honest files have a
// million of that, and all of it is looked at again and again.
func TestManySmallValues(t *testing.T) {
	var rows []starlark.Value
	for i := range 1000 {
		rows = append(rows, starlark.NewList([]starlark.Value{starlark.MakeInt(i), starlark.Tuple{}}))
	}
	all := starlark.NewList(rows)
	if !new(depths).tooDeep(all, 2) { // itself, a row, and what is given
		t.Error("the rows are not seen")
	}
	d := new(depths)
	if d.tooDeep(all, 3) || len(d.from) != 1 || d.count != 1001 {
		t.Errorf("%d of %d values are remembered", len(d.from), d.count)
	}
}

// functions is a file of n of them, each of which calls the one before.
func functions(n int) string {
	var b strings.Builder
	b.WriteString("def f0():\n    pass\n")
	for i := range n {
		fmt.Fprintf(&b, "def f%d():\n    return f%d()\n", i+1, i)
	}
	fmt.Fprintf(&b, "f%d()", n)
	return b.String()
}

// The names that a file does not know are told of, but not all of a thousand.
func TestManyUnresolved(t *testing.T) {
	_, err := eval(t, map[string]string{"main.star": strings.Repeat("x()\n", 1000)}, Options{})
	if n := strings.Count(fmt.Sprint(err), "\n"); n != maxUnresolved || !strings.Contains(err.Error(), "and 980 more") {
		t.Errorf("%d lines:\n%.500v", n, err)
	}
}

// Reading files takes as long as it takes.
func TestLongReading(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"main.star": "default = source('hole')", "hole": ""})
	if err := os.Truncate(filepath.Join(dir, "hole"), 1<<30); err != nil {
		t.Fatal(err)
	}
	runtime.GC() // what other tests have left would be collected meanwhile
	_, err := Eval(context.Background(), Options{Dir: "/nix/store", File: filepath.Join(dir, "main.star"), MaxOperation: 300 * time.Millisecond})
	if err != nil {
		t.Error(err)
	}
}
