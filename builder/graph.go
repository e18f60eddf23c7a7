package builder

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"storefs/store"
	"storefs/storeexpr"
)

// writeReferenceGraphs writes the files that a classic exportReferencesGraph,
// "FILE PATH FILE PATH …", asks for: the closure of each path in the form that
// `nix-store --register-validity` reads, without derivers.
func (b *build) writeReferenceGraphs() error {
	words, _, err := b.attrs.words("exportReferencesGraph")
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return nil
	}
	if len(words)%2 != 0 {
		return fail(store.CauseExpr, "exportReferencesGraph: not pairs of a file name and a path: %q", strings.Join(words, " "))
	}
	fileName := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	for pair := range slices.Chunk(words, 2) {
		if !fileName.MatchString(pair[0]) {
			return fail(store.CauseExpr, "exportReferencesGraph: %q cannot be a file name here", pair[0])
		}
		root, _, err := b.opts.Store.Split(pair[1])
		if err != nil {
			return fail(store.CauseExpr, "exportReferencesGraph: %v", err)
		}
		infos, err := b.exported([]store.Path{root})
		if err != nil {
			return err
		}
		var text strings.Builder
		for _, info := range infos {
			fmt.Fprintf(&text, "%s\n\n%d\n", info.Path, len(info.References))
			for _, r := range info.References {
				fmt.Fprintln(&text, r)
			}
		}
		if err := b.writeFile(pair[0], []byte(text.String())); err != nil {
			return err
		}
	}
	return nil
}

// exported is the closure of roots, sorted by path, and, where there are
// derivations in it, that of their outputs too: a builder that makes an image
// of everything that a build needs asks for it so.
func (b *build) exported(roots []store.Path) ([]store.Info, error) {
	infos := b.inputInfos()
	for _, r := range roots {
		if _, ok := infos[r]; !ok {
			return nil, fail(store.CauseExpr, "exportReferencesGraph: %s is not in the closure of the inputs", r)
		}
	}
	closure := b.closure(roots, nil)
	var outputs []store.Path
	for _, info := range closure {
		if !info.Path.IsDerivation() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(b.opts.Real, info.Path.Base()))
		if err != nil {
			return nil, err
		}
		e, err := storeexpr.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", info.Path, err)
		}
		if d, ok := e.(*storeexpr.Derivation); ok {
			outputs = append(outputs, d.OutputList()...)
		}
	}
	outputs = slices.DeleteFunc(outputs, func(p store.Path) bool { _, ok := infos[p]; return !ok })
	return b.closure(append(slices.Clone(roots), outputs...), nil), nil
}

func (b *build) inputInfos() map[store.Path]store.Info {
	if b.infos == nil {
		b.infos = make(map[store.Path]store.Info, len(b.job.Inputs))
		for _, in := range b.job.Inputs {
			b.infos[in.Path] = in
		}
	}
	return b.infos
}

// closure is everything that roots need, sorted by path, out of the inputs and
// of outputs, whose references are known by now.
func (b *build) closure(roots []store.Path, outputs []Output) []store.Info {
	infos := b.inputInfos()
	lookup := func(p store.Path) (store.Info, bool) {
		for _, o := range outputs {
			if o.Info.Path == p {
				return o.Info, true
			}
		}
		info, ok := infos[p]
		return info, ok
	}
	seen := make(map[store.Path]bool)
	todo := slices.Clone(roots)
	var found []store.Info
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p] {
			continue
		}
		seen[p] = true
		if info, ok := lookup(p); ok {
			found = append(found, info)
			todo = append(todo, info.References...)
		}
	}
	slices.SortFunc(found, func(a, b store.Info) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return found
}

func closureSize(infos []store.Info) int64 {
	var n int64
	for _, info := range infos {
		n += info.NarSize
	}
	return n
}
