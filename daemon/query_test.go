package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
	"storefs/storeexpr"
)

func TestQueries(t *testing.T) { eachWay(t, testQueries) }

func testQueries(t *testing.T, dial dialer) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, s, socket)
	ctx := t.Context()
	a, b := path("a"), path("b")
	f.infos[a] = store.Info{Path: a, Kind: store.KindRegular, NarHash: store.HashOf(store.SHA256, nil), References: []store.Path{a, b}}
	f.infos[b] = store.Info{Path: b, References: nil}
	f.relate(Referrers, b, a)
	f.relate(Roots, "", "/state/roots/x")
	d := &storeexpr.Derivation{Outputs: []storeexpr.Output{{Name: "out", Path: a}}, Inputs: []storeexpr.Input{{Path: path("b.drv"), Outputs: []string{"out"}}}, Platform: "x", Builder: "/b", Env: []storeexpr.EnvVar{{Name: "__cores", Value: "0"}}}
	f.exprs[path("a.drv")] = d
	f.exprs[path("b.drv")] = &storeexpr.Closure{}

	if info, err := c.Info(ctx, a); err != nil || cmp.Diff(f.infos[a], info) != "" {
		t.Error(info, err)
	}
	if _, err := c.Info(ctx, path("none")); !errors.Is(err, store.ErrNotValid) {
		t.Error(err)
	}
	if _, err := c.Info(ctx, "/elsewhere/x"); !errors.Is(err, store.ErrBadPath) {
		t.Error(err)
	}
	if ps, err := c.Missing(ctx, []store.Path{a, path("none")}); err != nil || len(ps) != 1 || ps[0] != path("none") {
		t.Error(ps, err)
	}
	if ps, err := c.Related(ctx, Referrers, b); err != nil || len(ps) != 1 || ps[0] != a {
		t.Error(ps, err)
	}
	if ps, err := c.Related(ctx, Roots, ""); err != nil || len(ps) != 1 {
		t.Error(ps, err)
	}
	if e, err := c.Expr(ctx, path("a.drv")); err != nil || string(e.AppendText(nil)) != string(d.AppendText(nil)) {
		t.Error(e, err)
	}
	want := Graph{[]Node{{Path: a, Needs: []store.Path{b}, Realised: true}, {Path: b, Needs: []store.Path{}, Realised: true}}}
	if g, err := c.Graph(ctx, []store.Path{a}, false); err != nil || cmp.Diff(want, g) != "" {
		t.Error(err, cmp.Diff(want, g))
	}
	f.relate(Successor, path("a.drv"), path("s.store"))
	want = Graph{[]Node{
		{Path: path("a.drv"), Needs: []store.Path{path("b.drv")}, Realised: true, Cores: new(int)},
		{Path: path("b.drv"), Needs: []store.Path{}, Realised: true},
	}}
	if g, err := c.Graph(ctx, []store.Path{path("a.drv"), path("a.drv")}, true); err != nil || cmp.Diff(want, g) != "" {
		t.Error(err, cmp.Diff(want, g))
	}
	if p, err := c.Plan(ctx, []store.Path{a}); err != nil || cmp.Diff(normaliser.Plan{Build: []store.Path{a}}, p) != "" {
		t.Error(p, err)
	}
	var damage []Damage
	sum, err := c.Verify(ctx, VerifyOptions{Contents: true}, func(d Damage) { damage = append(damage, d) })
	if err != nil || len(damage) != 2 || damage[0].Problem != "contents true" || sum.Paths != 9 {
		t.Error(damage, sum, err)
	}
	if _, err := c.Delete(ctx, []store.Path{a}); !errors.Is(err, store.ErrReferenced) {
		t.Error(err)
	}
	if ps, err := c.Delete(ctx, []store.Path{path("free")}); err != nil || len(ps) != 2 {
		t.Error(ps, err)
	}
	// An empty answer is an answer only about what is there.
	if ps, err := c.Related(ctx, Deriver, a); err != nil || len(ps) != 0 {
		t.Error(ps, err)
	}
	if _, err := c.Related(ctx, Deriver, path("none")); !errors.Is(err, store.ErrUnknown) {
		t.Error(err)
	}
}

func TestWhy(t *testing.T) { eachWay(t, testWhy) }

func testWhy(t *testing.T, dial dialer) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, s, socket)
	drv, out := path("a.drv"), path("a")
	f.infos[drv] = store.Info{Path: drv}
	f.relate(Deriver, out, drv)
	f.relate(Outputs, drv, out)
	ask := func(p store.Path, state, text string) {
		t.Helper()
		y, err := c.Why(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if y.State != state || !strings.Contains(y.Text(), text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", p, y.State, state, text, y.Text())
		}
	}
	ask(path("nothing"), StateUnknown, "no way to make it")
	ask(out, StateKnown, string(drv))
	ask(drv, StateKnown, "not realised")
	f.running(normaliser.Running{Goal: drv, Phase: event.PhaseScan})
	ask(out, StateRunning, "scan")
	ask(drv, StateRunning, "scan")
	f.running()
	f.failures[drv] = &store.Failure{Path: drv, Cause: store.CauseBuilder, Message: "exited with status 3", Builder: "/bin/sh", Status: 3}
	ask(out, StateFailed, "exit status: 3")
	ask(drv, StateFailed, "exit status: 3")
	f.infos[out] = store.Info{Path: out, Registered: 1}
	ask(out, StateRealised, "1970-01-01")
	ask(drv, StateRealised, "realised")
	f.running(normaliser.Running{Goal: drv, Phase: event.PhaseBuild, Check: true})
	ask(out, StateRealised, "1970-01-01")
	ask(drv, StateRealised, "realised")
	f.running()
	f.relate(Substitutes, path("p"), path("e.drv"))
	ask(path("p"), StateKnown, "not realised")
}

func TestLog(t *testing.T) { eachWay(t, testLog) }

func testLog(t *testing.T, dial dialer) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, s, socket)
	drv, out := path("a.drv"), path("a")
	f.relate(Deriver, out, drv)
	if err := c.Log(t.Context(), drv, true, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
	if err := c.Log(t.Context(), path("source"), false, io.Discard); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("log of what nothing makes: %v", err)
	}
	// Followed from before the builder has written anything.
	f.running(normaliser.Running{Goal: drv, Phase: event.PhaseBuild})
	r, w := io.Pipe()
	followed := make(chan error, 1)
	go func() {
		err := c.Log(t.Context(), out, true, w)
		w.Close()
		followed <- err
	}()
	got := make([]byte, 4)
	for _, line := range []string{"one\n", "two\n"} {
		file, err := os.OpenFile(f.LogFile(drv), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = file.WriteString(line)
		file.Close()
		f.events.Publish(event.Event{Kind: event.Log, Goal: drv, Text: line})
		if _, err := io.ReadFull(r, got); err != nil || string(got) != line {
			t.Fatalf("%q %v", got, err)
		}
	}
	f.running()
	f.events.Publish(event.Event{Kind: event.Done, Goal: drv})
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
	var whole bytes.Buffer
	if err := c.Log(t.Context(), out, false, &whole); err != nil || whole.String() != "one\ntwo\n" {
		t.Errorf("%q %v", &whole, err)
	}
}

// Who follows what has not begun waits for it, and hears nothing of what was before.
func TestLogOfWhatWaits(t *testing.T) {
	f := newFake(t)
	drv, out := path("a.drv"), path("a")
	f.relate(Deriver, out, drv)
	f.wanted = drv
	s, _ := f.serve()
	ctx, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer leave()
	if err := s.Log(ctx, out, true, io.Discard); err != nil || ctx.Err() == nil {
		t.Errorf("%v, while it waits: %v", err, ctx.Err())
	}
	if err := os.WriteFile(f.LogFile(drv), []byte("old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := s.Log(ctx, out, true, &got); err != nil || got.Len() > 0 {
		t.Errorf("%v, %q", err, &got)
	}
	if err := s.Log(ctx, out, false, &got); err != nil || got.String() != "old\n" {
		t.Errorf("not followed: %v, %q", err, &got)
	}
}

// An output that is called like an expression of 2004 has the log of what makes it.
func TestLogOfOutputCalledStore(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
	drv, out, old := path("data.store.drv"), path("data.store"), path("old.store")
	f.relate(Deriver, out, drv)
	for p, text := range map[store.Path]string{drv: "of data", old: "of old"} {
		if err := os.WriteFile(f.LogFile(p), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[store.Path]string{drv: "of data", out: "of data", old: "of old"} {
		var log bytes.Buffer
		if err := c.Log(t.Context(), p, false, &log); err != nil || log.String() != want {
			t.Errorf("%s: %q %v", p, &log, err)
		}
	}
}

func TestWhyOfDamage(t *testing.T) {
	f := newFake(t)
	s, _ := f.serve()
	p := path("a")
	f.infos[p] = store.Info{Path: p, Kind: store.KindRegular}
	for _, c := range []struct {
		damage *store.Damage
		state  string
		want   []string
	}{
		{nil, StateRealised, []string{": realised"}},
		{&store.Damage{Path: p, File: "bin/x", Message: "it differs", Unrepaired: "no way"}, StateDamaged, []string{": damaged", "damaged: bin/x: it differs", "not repaired: no way"}},
		{&store.Damage{Path: p, Message: "it differs", Repaired: time.Unix(1, 0)}, StateRealised, []string{": realised", "damaged: it differs", "\nrepaired: 19"}},
	} {
		f.damages[p] = c.damage
		y, err := s.Why(t.Context(), p)
		if err != nil || y.State != c.state {
			t.Fatalf("%+v, %v; want the state %s", y, err, c.state)
		}
		for _, w := range c.want {
			if !strings.Contains(y.Text(), w) {
				t.Errorf("no %q in %q", w, y.Text())
			}
		}
	}
}
