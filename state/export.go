package state

import (
	"context"
	"fmt"
	"io"

	"storefs/nar"
	"storefs/store"
)

// Export writes paths, which must be valid, as a stream of `nix-store --export`:
// each after those of paths that it refers to. Whoever is to import it must have
// what they refer to beyond that. An object whose content is not what was
// registered ends the export.
func (s *State) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	if err := s.export(ctx, w, paths); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (s *State) export(ctx context.Context, w io.Writer, paths []store.Path) error {
	infos, err := s.inOrder(paths)
	if err != nil {
		return err
	}
	x := nar.NewExportWriter(w)
	for _, i := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := nar.Member{Path: i.Path, References: i.References, Deriver: i.Deriver}
		if err := x.Add(m, func(w io.Writer) error { return s.dump(w, i) }); err != nil {
			return err
		}
	}
	return x.Close()
}

// dump writes the NAR of i to w, and fails at its end if it is not the one that
// was registered.
func (s *State) dump(w io.Writer, i store.Info) error {
	h := &counter{Hash: store.SHA256.New()}
	if err := nar.Dump(io.MultiWriter(w, h), s.Real(i.Path)); err != nil {
		return err
	}
	if got := (store.Hash{Algo: store.SHA256, Sum: string(h.Sum(nil))}); !got.Equal(i.NarHash) {
		return fmt.Errorf("%s is damaged: its NAR has the hash %s, %s was registered: %w", i.Path, got, i.NarHash, store.ErrHashMismatch)
	}
	return nil
}

// inOrder sorts paths so that each comes after those that it refers to, without
// duplicates.
func (s *State) inOrder(paths []store.Path) ([]store.Info, error) {
	infos := make(map[store.Path]store.Info, len(paths))
	for _, p := range paths {
		i, err := s.db.Info(p)
		if err != nil {
			return nil, err
		}
		infos[p] = i
	}
	type visit struct {
		info store.Info
		next int // the reference to look at
	}
	out := make([]store.Info, 0, len(infos))
	seen := make(map[store.Path]bool, len(infos))
	var stack []visit
	for _, p := range paths {
		if seen[p] {
			continue
		}
		seen[p] = true
		stack = append(stack, visit{info: infos[p]})
		for len(stack) > 0 {
			v := &stack[len(stack)-1]
			if v.next == len(v.info.References) {
				out = append(out, v.info)
				stack = stack[:len(stack)-1]
				continue
			}
			r := v.info.References[v.next]
			v.next++
			if i, ok := infos[r]; ok && !seen[r] {
				seen[r] = true
				stack = append(stack, visit{info: i})
			}
		}
	}
	return out, nil
}
