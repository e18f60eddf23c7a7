package instantiate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"go.starlark.net/starlark"
)

// filter selects paths below a directory by patterns. A pattern is a path
// with slashes whose components are matched as path.Match does; the component
// "**" stands for any number of them, none included. A directory that matches
// stands for everything below it.
type filter struct {
	include, exclude [][]string // patterns, split at their slashes
}

// newFilter reads lists of strings; nil lists are empty ones. Without include
// patterns everything is included.
func newFilter(include, exclude *starlark.List) (*filter, error) {
	f := &filter{}
	for _, l := range []struct {
		from *starlark.List
		to   *[][]string
	}{{include, &f.include}, {exclude, &f.exclude}} {
		if l.from == nil {
			continue
		}
		for i := range l.from.Len() {
			s, ok := starlark.AsString(l.from.Index(i))
			if !ok {
				return nil, fmt.Errorf("pattern %v: got %s, want string", l.from.Index(i), l.from.Index(i).Type())
			}
			p, err := parsePattern(s)
			if err != nil {
				return nil, err
			}
			*l.to = append(*l.to, p)
		}
	}
	return f, nil
}

func parsePattern(s string) ([]string, error) {
	if s == "" || path.IsAbs(s) {
		return nil, fmt.Errorf("pattern %q: not a relative path", s)
	}
	p := strings.Split(path.Clean(s), "/")
	if p[0] == ".." {
		return nil, fmt.Errorf("pattern %q: leads upwards", s)
	}
	for _, c := range p {
		if _, err := path.Match(c, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", s, err)
		}
	}
	return p, nil
}

// all reports whether the filter lets everything through.
func (f *filter) all() bool { return len(f.include) == 0 && len(f.exclude) == 0 }

// String tells filters apart.
func (f *filter) String() string { return fmt.Sprintf("%q %q", f.include, f.exclude) }

// includes reports whether p, or a directory above it, matches.
func (f *filter) includes(p string) bool {
	if len(f.include) == 0 {
		return true
	}
	names := strings.Split(p, "/")
	return slices.ContainsFunc(f.include, func(pat []string) bool { return match(pat, names, above) })
}

// mayHold reports whether something below the directory p can be included.
func (f *filter) mayHold(p string) bool {
	if len(f.include) == 0 {
		return true
	}
	names := strings.Split(p, "/")
	return slices.ContainsFunc(f.include, func(pat []string) bool {
		return match(pat, names, above) || match(pat, names, below)
	})
}

// excludes reports whether p itself matches. Those who walk do not enter a
// directory that does.
func (f *filter) excludes(p string) bool {
	names := strings.Split(p, "/")
	return slices.ContainsFunc(f.exclude, func(pat []string) bool { return match(pat, names, exact) })
}

// extent is which of a pattern and a path may be the longer one.
type extent int

const (
	exact extent = iota // neither
	above               // the pattern matches the path or a directory above it
	below               // the pattern matches the path or could match something below it
)

// match compares a pattern with a path, both in components. The sets of
// states that it keeps make it linear in both, whatever the number of "**".
func match(pat, names []string, ext extent) bool {
	if !slices.Contains(pat, "**") {
		return matchEach(pat, names, ext)
	}
	states := make([]bool, len(pat)+1) // states[i]: pat[:i] matches the names so far
	next := make([]bool, len(pat)+1)
	states[0] = true
	skip := func(s []bool) {
		for i, p := range pat {
			if s[i] && p == "**" {
				s[i+1] = true
			}
		}
	}
	skip(states)
	for _, name := range names {
		clear(next)
		for i, p := range pat {
			if !states[i] {
				continue
			}
			if p == "**" {
				next[i] = true
			} else if ok, err := path.Match(p, name); ok && err == nil {
				next[i+1] = true
			}
		}
		skip(next)
		states, next = next, states
		if ext == above && states[len(pat)] {
			return true
		}
	}
	if ext == below {
		return slices.Contains(states, true)
	}
	return states[len(pat)]
}

// matchEach is match for a pattern without "**", whose components stand for one each.
func matchEach(pat, names []string, ext extent) bool {
	switch {
	case ext != above && len(names) > len(pat), ext != below && len(names) < len(pat):
		return false
	}
	for i, p := range pat[:min(len(pat), len(names))] {
		if ok, err := path.Match(p, names[i]); !ok || err != nil {
			return false
		}
	}
	return true
}
