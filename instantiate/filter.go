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
	include, exclude patterns
}

// patterns are those of one list. A list may name each file of a large project, and is
// asked of each: those that match nothing but their own name are looked up.
type patterns struct {
	all   [][]string      // split at their slashes
	globs [][]string      // those that may match several names
	names map[string]bool // the others
	above map[string]bool // the directories that those are in
}

func (l *patterns) add(pat []string) {
	l.all = append(l.all, pat)
	if slices.ContainsFunc(pat, func(c string) bool { return strings.ContainsAny(c, `*?[\`) }) {
		l.globs = append(l.globs, pat)
		return
	}
	if l.names == nil {
		l.names, l.above = map[string]bool{}, map[string]bool{}
	}
	l.names[strings.Join(pat, "/")] = true
	for i := 1; i < len(pat); i++ {
		l.above[strings.Join(pat[:i], "/")] = true
	}
}

// match reports whether a pattern matches p as ext says.
func (l *patterns) match(p string, ext extent) bool {
	if l.names[p] || ext == below && l.above[p] {
		return true
	}
	if ext == above && len(l.names) > 0 {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if l.names[d] {
				return true
			}
		}
	}
	if len(l.globs) == 0 {
		return false
	}
	names := strings.Split(p, "/")
	return slices.ContainsFunc(l.globs, func(pat []string) bool { return match(pat, names, ext) })
}

// newFilter reads lists of strings; nil lists are empty ones. Without include
// patterns everything is included.
func newFilter(include, exclude *starlark.List) (*filter, error) {
	f := &filter{}
	for _, l := range []struct {
		from *starlark.List
		to   *patterns
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
			l.to.add(p)
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
func (f *filter) all() bool { return len(f.include.all) == 0 && len(f.exclude.all) == 0 }

// String tells filters apart.
func (f *filter) String() string { return fmt.Sprintf("%q %q", f.include.all, f.exclude.all) }

// includes reports whether p, or a directory above it, matches.
func (f *filter) includes(p string) bool {
	return len(f.include.all) == 0 || f.include.match(p, above)
}

// mayHold reports whether something below the directory p can be included.
func (f *filter) mayHold(p string) bool {
	return f.includes(p) || f.include.match(p, below)
}

// excludes reports whether p itself matches. Those who walk do not enter a
// directory that does.
func (f *filter) excludes(p string) bool { return f.exclude.match(p, exact) }

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
