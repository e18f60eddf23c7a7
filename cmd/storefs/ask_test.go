package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"storefs/daemon"
	"storefs/db"
	"storefs/event"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
	"storefs/storeexpr"
)

// BenchmarkAsk asks an owner, through its socket, for all derivations of a graph
// that is realised. Nothing was built for it: it is in the database only.
func BenchmarkAsk(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ctx := context.Background()
			dir := filepath.Join(b.TempDir(), "state")
			if err := state.Init(dir, "/nix/store"); err != nil {
				b.Fatal(err)
			}
			events := &event.Bus{}
			s, err := state.Open(dir, state.Options{Events: events})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			all := writeRealised(b, s, n)
			norm := normaliser.New(normaliser.Options{Store: goalStore{s, &vigil{}}, Builder: &instant{builds: s.Builds()}, Events: events})
			defer norm.Close(ctx)
			server := daemon.New(daemon.Options{
				Hello: func() daemon.Hello { return daemon.Hello{Store: s.Store()} }, Realiser: norm, Events: events,
			})
			socket := filepath.Join(b.TempDir(), "socket")
			l, err := daemon.Listen(socket)
			if err != nil {
				b.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- server.Serve(l) }()
			defer func() { server.Close(); <-served }()
			c, err := daemon.Dial(ctx, socket, false)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.Realise(ctx, daemon.RealiseRequest{Targets: all}, nil)
				if err != nil || len(res.Targets) != n || !res.Targets[n-1].Realised {
					b.Fatal(err, len(res.Targets))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/job")
		})
	}
}

// writeRealised adds n derivations, each of which needs three of those before
// it, and says of each that it is realised.
func writeRealised(b *testing.B, s *state.State, n int) []store.Path {
	b.Helper()
	ctx := context.Background()
	hashes := map[store.Path]storeexpr.Modulo{}
	modulo := func(p store.Path) (storeexpr.Modulo, error) { return hashes[p], nil }
	var exprs []state.NewExpr
	var outs []store.Path
	var paths []store.Path
	for i := range n {
		name := fmt.Sprintf("job-%d", i)
		d := &storeexpr.Derivation{
			Outputs: []storeexpr.Output{{Name: "out"}}, Platform: "x86_64-linux", Builder: "/bin/sh", Form: storeexpr.FormToday,
		}
		needs := map[int]bool{}
		for j := range min(i, 3) {
			needs[(i*7919+j*104729)%i] = true
		}
		var env []string
		for j := range needs {
			d.Inputs = append(d.Inputs, storeexpr.Input{Path: paths[j], Outputs: []string{"out"}})
			env = append(env, string(outs[j]))
		}
		d.Env = []storeexpr.EnvVar{{Name: "needs", Value: strings.Join(env, " ")}}
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
		paths, outs = append(paths, p), append(outs, d.Outputs[0].Path)
	}
	if _, err := s.AddExprs(ctx, exprs); err != nil {
		b.Fatal(err)
	}
	hash := store.HashOf(store.SHA256, nil)
	const callers = 256
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := c; i < n; i += callers {
				closure, err := store.TextPath(s.Store(), "x-s.store", fmt.Append(nil, i), nil)
				if err == nil {
					err = s.DB().Register(ctx, db.Registration{
						Infos: []store.Info{
							{Path: outs[i], Kind: store.KindRegular, NarHash: hash, Deriver: paths[i]},
							{Path: closure, Kind: store.KindRegular, NarHash: hash, References: outs[i : i+1]},
						},
						Successor: &db.Successor{Expr: paths[i], Closure: closure},
					})
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	return paths
}
