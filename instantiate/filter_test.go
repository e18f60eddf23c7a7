package instantiate

import (
	"slices"
	"strings"
	"testing"
)

// What is looked up is what would match one by one.
func TestFilterNames(t *testing.T) {
	words := []string{"a/b", "c", "b/a/c", "b/a/a/b"}
	f := &filter{}
	for _, w := range words {
		f.include.add(strings.Split(w, "/"))
		f.exclude.add(strings.Split(w, "/"))
	}
	any := func(names []string, ext extent) bool {
		return slices.ContainsFunc(words, func(w string) bool { return match(strings.Split(w, "/"), names, ext) })
	}
	paths := [][]string{{}}
	for i := 0; i < len(paths); i++ {
		if names := paths[i]; len(names) > 0 {
			p := strings.Join(names, "/")
			in, hold, out := any(names, above), any(names, above) || any(names, below), any(names, exact)
			if f.includes(p) != in || f.mayHold(p) != hold || f.excludes(p) != out {
				t.Errorf("%q is included %v, may hold %v, excluded %v; want %v, %v, %v", p, f.includes(p), f.mayHold(p), f.excludes(p), in, hold, out)
			}
		}
		if len(paths[i]) < 5 {
			for _, c := range []string{"a", "b", "c"} {
				paths = append(paths, append(slices.Clone(paths[i]), c))
			}
		}
	}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		include, exclude string
		path             string
		in, hold, out    bool // includes, mayHold, excludes
	}{
		{"*.go", "", "a.go", true, true, false},
		{"*.go", "", "d/a.go", false, false, false},
		{"*.go", "", "d", false, false, false},
		{"**/*.go", "", "a.go", true, true, false},
		{"**/*.go", "", "d/e/a.go", true, true, false},
		{"**/*.go", "", "d/e", false, true, false},
		{"d/**", "", "d/x/y", true, true, false},
		{"d/**", "", "d", true, true, false},
		{"d", "", "d/x/y", true, true, false},
		{"d", "", "dd", false, false, false},
		{"d/*/f", "", "d", false, true, false},
		{"d/*/f", "", "d/x", false, true, false},
		{"d/*/f", "", "d/x/g", false, false, false},
		{"d/*/f", "", "e", false, false, false},
		{"**", "", "x/y", true, true, false},
		{"a/**/b/**/c", "", "a/b/c", true, true, false},
		{"a/**/b/**/c", "", "a/1/b/2/3/c", true, true, false},
		{"a/**/b/**/c", "", "a/1/2/3", false, true, false},
		{"./x//y/", "", "x/y", true, true, false},
		{"?[a-c]\\*", "", "1b*", true, true, false},
		{"", "", "x", true, true, false},
		{"", "*_test.go", "a_test.go", true, true, true},
		{"", "*_test.go", "d/a_test.go", true, true, false},
		{"", "**/testdata", "d/testdata", true, true, true},
		{"", "**/testdata", "d/testdata/x", true, true, false}, // no walk comes there
	} {
		f := &filter{}
		for _, p := range []struct {
			s  string
			to *patterns
		}{{c.include, &f.include}, {c.exclude, &f.exclude}} {
			if p.s == "" {
				continue
			}
			pat, err := parsePattern(p.s)
			if err != nil {
				t.Fatal(err)
			}
			p.to.add(pat)
		}
		if in, hold, out := f.includes(c.path), f.mayHold(c.path), f.excludes(c.path); in != c.in || hold != c.hold || out != c.out {
			t.Errorf("include %q exclude %q: %q is included %v, may hold %v, excluded %v; want %v, %v, %v",
				c.include, c.exclude, c.path, in, hold, out, c.in, c.hold, c.out)
		}
	}
}
