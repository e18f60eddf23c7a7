package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
	"storefs/storeexpr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("long", 40))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{filepath.Join(dir, "socket"), filepath.Join(long, "socket")} {
		if _, err := Dial(t.Context(), socket, false); !errors.Is(err, ErrNoServer) {
			t.Errorf("no socket: %v", err)
		}
		// What a dead owner leaves: a socket that nobody listens at.
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := Dial(t.Context(), socket, false); !errors.Is(err, ErrNoServer) {
			t.Errorf("stale socket: %v", err)
		}
		if l, err = Listen(socket); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		serving(t, newFake(t).server(), l)
		c := dial(t, socket)
		if c.Hello().PID != 7 || c.Hello().Store != "/nix/store" {
			t.Errorf("hello: %+v", c.Hello())
		}
	}
}

func TestErrorsTravel(t *testing.T) {
	failure := &store.Failure{Path: path("a.drv"), Cause: store.CauseTimeout, Message: "timed out", Log: []string{"x"}}
	other := &store.Failure{Path: path("b.drv"), Cause: store.CauseBuilder, Message: "status 1", Chain: []store.Path{path("c.drv"), path("b.drv")}}
	for _, want := range []error{
		failure, other,
		errors.Join(failure, other),
		errors.Join(errors.New("read: x"), store.ErrBadPath),
	} {
		f := newFake(t)
		f.realise = func(context.Context, normaliser.Request) (*normaliser.Result, error) {
			return &normaliser.Result{Targets: []normaliser.Target{{Path: path("a.drv")}}}, want
		}
		_, socket := f.serve()
		res, err := dial(t, socket).Realise(t.Context(), RealiseRequest{}, nil)
		if err == nil || err.Error() != want.Error() {
			t.Errorf("%q instead of %q", err, want)
		}
		if len(res.Targets) != 1 {
			t.Errorf("results: %v", res)
		}
		for _, k := range kinds {
			if errors.Is(err, k.err) != errors.Is(want, k.err) {
				t.Errorf("errors.Is(%q, %q) = %v", err, k.err, errors.Is(err, k.err))
			}
		}
		if d := cmp.Diff(Failures(want), Failures(err)); d != "" {
			t.Error(d)
		}
	}
}

func TestRealiseStreamsItsOwnEventsOnly(t *testing.T) {
	f := newFake(t)
	ours, running, alien := path("ours.drv"), path("running.drv"), path("alien.drv")
	began := time.Now().Add(-time.Minute).Truncate(time.Second).UTC()
	f.running(
		normaliser.Running{Goal: running, Phase: event.PhaseBuild, Since: began, Expected: time.Hour},
		normaliser.Running{Goal: alien, Phase: event.PhaseBuild, Since: began},
	)
	f.realise = func(_ context.Context, req normaliser.Request) (*normaliser.Result, error) {
		if len(req.Targets) != 1 || req.Targets[0] != ours || !req.KeepGoing || !req.Orphans.Cancel || req.Limits.Timeout != time.Minute {
			t.Errorf("request: %+v", req)
		}
		f.events.Publish(event.Event{Kind: event.Added, Goal: ours, Expected: time.Second})
		f.events.Publish(event.Event{Kind: event.Done, Goal: alien})
		req.Planned([]store.Path{ours, running})
		f.events.Publish(event.Event{Kind: event.Started, Goal: alien})
		f.events.Publish(event.Event{Kind: event.Log, Goal: ours, Text: "line"})
		f.events.Publish(event.Event{Kind: event.Valid, Paths: []store.Path{alien}})
		f.events.Publish(event.Event{Kind: event.Done, Goal: running})
		f.events.Publish(event.Event{Kind: event.Done, Goal: ours, Text: event.OutcomeBuilt})
		return &normaliser.Result{Targets: []normaliser.Target{{Path: ours, Paths: []store.Path{path("ours")}}}}, nil
	}
	_, socket := f.serve()
	c := dial(t, socket)
	for _, logs := range []bool{false, true} {
		req := RealiseRequest{Targets: []store.Path{ours}, KeepGoing: true, Logs: logs}
		req.Limits.Timeout = time.Minute
		var got []string
		res, err := c.Realise(t.Context(), req, func(s Seen) {
			e := s.Event
			if e.Kind == event.Started && (!e.Time.Equal(began) || e.Expected != time.Hour) {
				t.Errorf("of a goal that runs already: %+v", e)
			}
			got = append(got, string(e.Kind)+" "+e.Goal.Name())
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Targets) != 1 || res.Targets[0].Paths[0] != path("ours") {
			t.Errorf("result: %+v", res)
		}
		want := []string{
			"added ours.drv", "added running.drv", "started running.drv", "phase running.drv",
			"added ours.drv", "log ours.drv", "done running.drv", "done ours.drv",
		}
		if !logs {
			want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "log") })
		}
		slices.Sort(got[:2]) // the goals of a request have no order
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

func TestClientThatGoesCancels(t *testing.T) {
	f := newFake(t)
	begun, cancelled := make(chan struct{}), make(chan struct{})
	f.realise = func(ctx context.Context, req normaliser.Request) (*normaliser.Result, error) {
		req.Planned(nil)
		close(begun)
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	}
	_, socket := f.serve()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := dial(t, socket).Realise(ctx, RealiseRequest{}, nil)
	if !errors.Is(err, store.ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	<-cancelled
}

func TestDrainWaitsForClients(t *testing.T) {
	f := newFake(t)
	begun, release := make(chan struct{}), make(chan struct{})
	f.realise = func(context.Context, normaliser.Request) (*normaliser.Result, error) {
		close(begun)
		<-release
		return nil, nil
	}
	s, socket := f.serve()
	c := dial(t, socket)
	watcher, err := Dial(t.Context(), socket, true)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	watched := make(chan error, 1)
	go func() { watched <- watcher.Watch(t.Context(), false, func(Seen) {}) }()
	realised := make(chan error, 1)
	go func() {
		_, err := c.Realise(t.Context(), RealiseRequest{}, nil)
		realised <- err
	}()
	<-begun
	drained := make(chan struct{})
	var told atomic.Int32
	go func() {
		s.Drain(t.Context(), func(n int) { told.Store(int32(n)) })
		close(drained)
	}()
	if err := <-watched; err != nil {
		t.Errorf("watch: %v", err)
	}
	if _, err := Dial(t.Context(), socket, false); !errors.Is(err, ErrClosing) {
		t.Errorf("new client of a closing owner: %v", err)
	}
	for told.Load() == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-drained:
		t.Fatal("did not wait for the client")
	default:
	}
	close(release)
	if err := <-realised; err != nil {
		t.Errorf("a request of a draining owner: %v", err)
	}
	// The client goes on, as commands do, before it leaves.
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
	<-drained
	if told.Load() != 1 {
		t.Errorf("told of %d clients", told.Load())
	}
}

func TestDrainCancelled(t *testing.T) {
	f := newFake(t)
	begun := make(chan struct{})
	f.realise = func(ctx context.Context, _ normaliser.Request) (*normaliser.Result, error) {
		close(begun)
		<-ctx.Done()
		return nil, store.ErrCancelled
	}
	s, socket := f.serve()
	c := dial(t, socket)
	realised := make(chan error, 1)
	go func() {
		_, err := c.Realise(t.Context(), RealiseRequest{}, nil)
		realised <- err
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Drain(ctx, func(int) {})
	if err := <-realised; !errors.Is(err, store.ErrCancelled) {
		t.Errorf("error: %v", err)
	}
}

func TestUploads(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
	ctx := t.Context()
	info, err := c.AddNAR(ctx, "src", true, store.SHA256, strings.NewReader("a nar"))
	if err != nil || info.Path != path("src") || info.NarSize != 5 {
		t.Errorf("%+v %v", info, err)
	}
	// A refusal reaches a client that has much more to send.
	for range 20 {
		if _, err := c.AddNAR(ctx, "src", true, store.SHA256, io.LimitReader(junk{}, 8<<20)); !errors.Is(err, store.ErrBadArchive) {
			t.Fatalf("refused upload: %v", err)
		}
	}
	// An error here is told as it is, not as a broken connection.
	broken := errors.New("read src/file: permission denied")
	r, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, "a nar that"); w.CloseWithError(broken) }()
	if _, err := c.AddNAR(ctx, "src", true, store.SHA256, r); !errors.Is(err, broken) {
		t.Errorf("broken upload: %v", err)
	}
	if ps, err := c.AddTexts(ctx, []Text{{Name: "t", Text: []byte("a\x00\xff"), References: []store.Path{path("r")}}}); err != nil || len(ps) != 1 || ps[0] != path("t") {
		t.Error(ps, err)
	}
	if ps, err := c.AddExprs(ctx, []Text{{Name: "x.drv", Text: []byte("Derive"), Kinds: map[string]store.Kind{"out": store.KindRegular}}}); err != nil || ps[0] != path("x.drv") {
		t.Error(ps, err)
	}
	// Long lists go in pieces, in order.
	big := make([]byte, maxPiece/2+1)
	if ps, err := c.AddExprs(ctx, []Text{{Name: "x", Text: big}, {Name: "y", Text: big}}); err != nil || len(ps) != 2 || ps[1] != path("y") {
		t.Error(ps, err)
	}
	if err := c.AddSubstitute(ctx, path("p"), path("e.drv")); err != nil {
		t.Error(err)
	}
	if ps, err := c.Import(ctx, strings.NewReader("imported")); err != nil || len(ps) != 1 || ps[0] != path("imported") {
		t.Error(ps, err)
	}
	if ps, err := c.ImportExprs(ctx, []string{"/dir/x.drv"}); err != nil || len(ps) != 1 || ps[0] != path("x.drv") {
		t.Error(ps, err)
	}
	want := []string{
		"nar src true sha256 a nar",
		"1 texts",
		`text t "a\x00\xff" [` + string(path("r")) + "] map[]",
		"1 exprs",
		`expr x.drv "Derive" [] map[out:regular]`,
		"1 exprs", "1 exprs",
		"substitute " + string(path("p")) + " " + string(path("e.drv")),
	}
	if d := cmp.Diff(want, f.added); d != "" {
		t.Error(d)
	}
}

type junk struct{}

func (junk) Read(p []byte) (int, error) { return copy(p, "junkjunkjunkjunk"), nil }

func TestExport(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
	var out bytes.Buffer
	if err := c.Export(t.Context(), &out, []store.Path{path("a"), path("b")}); err != nil || out.String() != string(path("a")+path("b")) {
		t.Errorf("%q %v", &out, err)
	}
	// Refused before the first byte, and cut in the middle: both are told.
	for _, paths := range [][]store.Path{{path("bad")}, {path("a"), path("bad")}} {
		if err := c.Export(t.Context(), io.Discard, paths); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("%v: %v", paths, err)
		}
	}
	full := errors.New("disk full")
	if err := c.Export(t.Context(), failingWriter{full}, []store.Path{path("a")}); !errors.Is(err, full) {
		t.Errorf("local error: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestCutOff: an owner that dies in the middle of an answer.
func TestCutOff(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Storefs-Error\r\n\r\n3\r\nabc\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Storefs-Error\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"",
	} {
		socket := filepath.Join(t.TempDir(), "socket")
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				answerRaw(conn, answer)
			}
		}()
		c, err := Dial(t.Context(), socket, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Export(t.Context(), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "has gone") {
			t.Errorf("export after %q: %v", answer, err)
		}
		if _, err := c.Realise(t.Context(), RealiseRequest{}, nil); err == nil {
			t.Errorf("realise after %q: no error", answer)
		}
		c.Close()
		l.Close()
		<-served
	}
}

// answerRaw answers one request; the first of a client with a hello.
func answerRaw(conn net.Conn, answer string) {
	b := make([]byte, 64<<10)
	n, _ := conn.Read(b)
	if bytes.Contains(b[:n], []byte("/session")) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}\n")
	} else {
		_, _ = io.WriteString(conn, answer)
	}
	conn.Close()
}

func TestOtherVersion(t *testing.T) {
	_, socket := newFake(t).serve()
	c := dial(t, socket)
	_, err := c.get(t.Context(), "../v2/session", nil)
	if err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("error: %v", err)
	}
}

func TestStop(t *testing.T) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, socket)
	if err := c.Stop(t.Context()); err != nil || f.stopped != 1 {
		t.Errorf("%v, stopped %d times", err, f.stopped)
	}
	s.Stop = nil
	if err := c.Stop(t.Context()); !errors.Is(err, store.ErrRefused) {
		t.Errorf("an owner that is no mount: %v", err)
	}
}

func TestQueries(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
	ctx := t.Context()
	a, b := path("a"), path("b")
	f.infos[a] = store.Info{Path: a, Kind: store.KindRegular, NarHash: store.HashOf(store.SHA256, nil), References: []store.Path{a, b}}
	f.infos[b] = store.Info{Path: b, References: nil}
	f.relate(Referrers, b, a)
	f.relate(Roots, "", "/state/roots/x")
	d := &storeexpr.Derivation{Outputs: []storeexpr.Output{{Name: "out", Path: a}}, Inputs: []storeexpr.Input{{Path: path("b.drv"), Outputs: []string{"out"}}}, Platform: "x", Builder: "/b"}
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
	want := Graph{[]Node{{a, []store.Path{b}, true}, {b, []store.Path{}, true}}}
	if g, err := c.Graph(ctx, []store.Path{a}, false); err != nil || cmp.Diff(want, g) != "" {
		t.Error(err, cmp.Diff(want, g))
	}
	f.relate(Successor, path("a.drv"), path("s.store"))
	want = Graph{[]Node{{path("a.drv"), []store.Path{path("b.drv")}, true}, {path("b.drv"), []store.Path{}, true}}}
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

func TestWhy(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
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
	f.relate(Substitutes, path("p"), path("e.drv"))
	ask(path("p"), StateKnown, "not realised")
}

func TestLog(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
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

func TestWatch(t *testing.T) {
	f := newFake(t)
	f.running(normaliser.Running{Goal: path("a.drv"), Since: time.Now().Add(-time.Minute), Phase: event.PhaseBuild, Expected: time.Hour})
	f.now.Jobs = 2
	_, socket := f.serve()
	c := dial(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	err := c.Watch(ctx, false, func(s Seen) {
		n++
		switch n {
		case 1:
			if text := s.Status.Text(s.Status.Running[0].Since.Add(time.Minute)); !strings.Contains(text, "1m00s of 1h00m "+string(path("a.drv"))+" (build)") {
				t.Error(text)
			}
			if s.Status == nil || s.Status.Jobs != 2 || len(s.Status.Events()) != 2 || s.Status.PID != 7 {
				t.Errorf("first: %+v", s)
			}
			f.events.Publish(event.Event{Kind: event.Log, Goal: path("a.drv"), Text: "not asked for"})
			f.events.Publish(event.Event{Kind: event.Valid, Paths: []store.Path{path("a")}})
		case 2:
			if s.Event == nil || s.Event.Kind != event.Valid {
				t.Errorf("second: %+v", s)
			}
			cancel()
		}
	})
	if !errors.Is(err, store.ErrCancelled) || n != 2 {
		t.Errorf("%d: %v", n, err)
	}
}
