package storeexpr

import (
	"fmt"
	"slices"
	"strings"

	"storefs/store"
)

// NewClosure finds everything that roots need: it asks refs once for the
// references of each path that it comes to, and does not keep what refs
// returned. The order in which it asks is not defined.
func NewClosure(roots []store.Path, refs func(store.Path) ([]store.Path, error)) (*Closure, error) {
	c := &Closure{Roots: sortedPaths(roots)}
	seen := make(map[store.Path]bool, len(c.Roots))
	todo := slices.Clone(c.Roots)
	for _, p := range todo {
		seen[p] = true
	}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		list, err := refs(p)
		if err != nil {
			return nil, fmt.Errorf("closure of %s: %w", p, err)
		}
		e := Element{Path: p, References: sortedPaths(list)}
		c.Elements = append(c.Elements, e)
		for _, r := range e.References {
			if !seen[r] {
				seen[r] = true
				todo = append(todo, r)
			}
		}
	}
	slices.SortFunc(c.Elements, func(a, b Element) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return c, nil
}

// sortedPaths copies paths in order and without duplicates, nil for none.
func sortedPaths(paths []store.Path) []store.Path {
	if len(paths) == 0 {
		return nil
	}
	paths = slices.Clone(paths)
	slices.Sort(paths)
	return slices.Compact(paths)
}

// References are the references of the expression itself, as a store object:
// all elements, in order.
func (c *Closure) References() []store.Path {
	refs := make([]store.Path, len(c.Elements))
	for i, e := range c.Elements {
		refs[i] = e.Path
	}
	return refs
}

// Path is the path of the expression itself, DIGEST-s.store: a text that refers
// to all elements (today), or the MD5 of the text (2004).
func (c *Closure) Path(dir store.Dir, form Form) (store.Path, error) {
	text := c.AppendText(nil)
	if form == Form2004 {
		return store.HexPath(dir, "s.store", text)
	}
	return store.TextPath(dir, "s.store", text, c.References())
}
