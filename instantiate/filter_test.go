package instantiate

import "testing"

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
			to *[][]string
		}{{c.include, &f.include}, {c.exclude, &f.exclude}} {
			if p.s == "" {
				continue
			}
			pat, err := parsePattern(p.s)
			if err != nil {
				t.Fatal(err)
			}
			*p.to = append(*p.to, pat)
		}
		if in, hold, out := f.includes(c.path), f.mayHold(c.path), f.excludes(c.path); in != c.in || hold != c.hold || out != c.out {
			t.Errorf("include %q exclude %q: %q is included %v, may hold %v, excluded %v; want %v, %v, %v",
				c.include, c.exclude, c.path, in, hold, out, c.in, c.hold, c.out)
		}
	}
}
