package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"storefs/builder"
	"storefs/event"
	"storefs/nar"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/tree"
)

// instant makes outputs without a process: what remains is the cost of
// everything but the sandbox.
type instant struct {
	builds string
	n      atomic.Uint64
}

func (b *instant) Build(ctx context.Context, j builder.Job) (*builder.Result, error) {
	dir := filepath.Join(b.builds, fmt.Sprint(b.n.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if j.Turn != nil {
		select {
		case <-j.Turn.Granted:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	j.Phase(event.PhaseBuild)
	res := &builder.Result{Started: time.Now(), Duration: time.Millisecond, Release: func() { os.RemoveAll(dir) }}
	candidates := j.Derivation.OutputList()
	for _, in := range j.Inputs {
		candidates = append(candidates, in.Path)
	}
	j.Phase(event.PhaseScan)
	for _, o := range j.Derivation.Outputs {
		scratch := filepath.Join(dir, o.Path.Base())
		if err := os.WriteFile(scratch, []byte(j.Drv), 0o644); err != nil {
			return nil, err
		}
		sum, err := nar.Ingest(ctx, scratch, nar.IngestOptions{UID: -1, GID: -1, Candidates: nar.NewCandidates(candidates)})
		if err != nil {
			return nil, err
		}
		res.Outputs = append(res.Outputs, builder.Output{Name: o.Name, Scratch: scratch, Info: store.Info{
			Path: o.Path, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, References: sum.References, Deriver: j.Drv,
		}})
	}
	return res, nil
}

// BenchmarkEngine realises a graph of derivations whose builders take no time:
// all that the engine does besides. STOREFS_BENCH_FAST is a directory in memory
// for everything but the database.
func BenchmarkEngine(b *testing.B) {
	for _, shape := range []string{"wide", "chain"} {
		b.Run(shape, func(b *testing.B) {
			ctx := context.Background()
			dir := filepath.Join(b.TempDir(), "state")
			if fast := os.Getenv("STOREFS_BENCH_FAST"); fast != "" {
				top, err := os.MkdirTemp(fast, "engine-")
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { tree.RemoveAll(top) })
				dir = filepath.Join(top, "state")
				if err := os.Mkdir(dir, 0o755); err != nil {
					b.Fatal(err)
				}
				if err := os.Symlink(filepath.Join(b.TempDir(), "db.bolt"), filepath.Join(dir, "db.bolt")); err != nil {
					b.Fatal(err)
				}
			}
			if err := state.Init(dir, "/nix/store"); err != nil {
				b.Fatal(err)
			}
			events := &event.Bus{}
			s, err := state.Open(dir, state.Options{Events: events})
			if err != nil {
				b.Fatal(err)
			}
			n := normaliser.New(normaliser.Options{
				Store: goalStore{s, &vigil{}}, Builder: &instant{builds: s.Builds()}, Events: events, Jobs: 2,
			})
			top := writeGraph(b, s, shape, b.N)
			b.ResetTimer()
			_, err = n.Realise(ctx, normaliser.Request{Targets: []store.Path{top}})
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			if err := n.Close(ctx); err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// writeGraph adds n derivations, and returns the one that needs all.
func writeGraph(b *testing.B, s *state.State, shape string, n int) store.Path {
	b.Helper()
	ctx := context.Background()
	hashes := map[store.Path]storeexpr.Modulo{}
	modulo := func(p store.Path) (storeexpr.Modulo, error) { return hashes[p], nil }
	var exprs []state.NewExpr
	var all []storeexpr.Input
	for i := range n + 1 {
		name := fmt.Sprintf("job-%d", i)
		d := &storeexpr.Derivation{
			Outputs: []storeexpr.Output{{Name: "out"}}, Platform: "x86_64-linux", Builder: "/bin/sh", Form: storeexpr.FormToday,
		}
		switch {
		case i == n:
			d.Inputs = all
		case shape == "chain" && i > 0:
			d.Inputs = all[i-1:]
		}
		if err := d.FillOutputs(s.Store(), name, modulo); err != nil {
			b.Fatal(err)
		}
		p, err := d.Path(s.Store(), name)
		if err != nil {
			b.Fatal(err)
		}
		if hashes[p], err = d.HashModulo(modulo); err != nil {
			b.Fatal(err)
		}
		exprs = append(exprs, state.NewExpr{Name: name + ".drv", Text: d.AppendText(nil)})
		all = append(all, storeexpr.Input{Path: p, Outputs: []string{"out"}})
	}
	paths, err := s.AddExprs(ctx, exprs)
	if err != nil {
		b.Fatal(err)
	}
	return paths[n]
}
