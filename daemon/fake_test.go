package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/prefetch"
	"storefs/store"
	"storefs/storeexpr"
)

const dir = store.Dir("/nix/store")

func path(name string) store.Path {
	return store.Path(string(dir) + "/" + strings.Repeat("0", 32-len(name)%10) + strings.Repeat("a", len(name)%10) + "-" + name)
}

// fake is the owner's side: it answers from what the test puts in.
type fake struct {
	t      testing.TB
	events event.Bus
	logs   string // directory of logs

	realise func(ctx context.Context, r normaliser.Request) (*normaliser.Result, error)

	mu       sync.Mutex
	now      normaliser.Status
	infos    map[store.Path]store.Info
	exprs    map[store.Path]storeexpr.Expr
	related  map[Relation]map[store.Path][]store.Path
	failures map[store.Path]*store.Failure
	damages  map[store.Path]*store.Damage
	trails   []prefetch.Trail
	added    []string
	wanted   store.Path
	stopped  int
}

func newFake(t testing.TB) *fake {
	return &fake{
		t: t, logs: t.TempDir(),
		infos: map[store.Path]store.Info{}, exprs: map[store.Path]storeexpr.Expr{},
		related: map[Relation]map[store.Path][]store.Path{}, failures: map[store.Path]*store.Failure{}, damages: map[store.Path]*store.Damage{},
	}
}

func (f *fake) relate(r Relation, p store.Path, to ...store.Path) {
	if f.related[r] == nil {
		f.related[r] = map[store.Path][]store.Path{}
	}
	f.related[r][p] = to
}

func (f *fake) Realise(ctx context.Context, r normaliser.Request) (*normaliser.Result, error) {
	return f.realise(ctx, r)
}

func (f *fake) Plan(_ context.Context, targets []store.Path) (normaliser.Plan, error) {
	return normaliser.Plan{Build: targets}, nil
}

func (f *fake) Status() normaliser.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fake) Remaining(goals map[store.Path]bool) time.Duration {
	return time.Duration(len(goals)) * time.Minute
}

func (f *fake) Cancel(_ context.Context, targets []store.Path) ([]store.Path, error) {
	ended := make([]store.Path, len(targets))
	for i, p := range targets {
		if f.Wanted(p) {
			ended[i] = p
		}
	}
	return ended, nil
}

func (f *fake) CancelAll(context.Context) ([]store.Path, error) { return []store.Path{f.wanted}, nil }

func (f *fake) Wanted(p store.Path) bool { return p == f.wanted }

func (f *fake) running(goals ...normaliser.Running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Running = goals
}

func (f *fake) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.added = append(f.added, s)
}

func (f *fake) AddNAR(_ context.Context, name string, recursive bool, algo store.Algo, nar io.Reader) (store.Info, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(nar, head); err != nil {
		return store.Info{}, fmt.Errorf("add %s: %w", name, err)
	}
	if string(head) == "junk" {
		return store.Info{}, fmt.Errorf("add %s: %w", name, store.ErrBadArchive)
	}
	rest, err := io.ReadAll(nar)
	if err != nil {
		return store.Info{}, err
	}
	f.note(fmt.Sprintf("nar %s %v %s %s%s", name, recursive, algo, head, rest))
	return store.Info{Path: path(name), NarSize: int64(4 + len(rest))}, nil
}

func (f *fake) AddTexts(_ context.Context, texts []Text) ([]store.Path, error) {
	return f.addAll("text", texts)
}

func (f *fake) AddExprs(_ context.Context, texts []Text) ([]store.Path, error) {
	return f.addAll("expr", texts)
}

func (f *fake) addAll(what string, texts []Text) ([]store.Path, error) {
	var paths []store.Path
	f.note(fmt.Sprintf("%d %ss", len(texts), what))
	for _, t := range texts {
		if len(t.Text) < 1000 {
			f.note(fmt.Sprintf("%s %s %q %v %v", what, t.Name, t.Text, t.References, t.Kinds))
		}
		paths = append(paths, path(t.Name))
	}
	return paths, nil
}

func (f *fake) MissingExprs(declared []Declaration) ([]store.Path, error) {
	f.note(fmt.Sprintf("%d declared", len(declared)))
	var missing []store.Path
	for _, d := range declared {
		if d.Kinds["out"] != store.KindRegular {
			missing = append(missing, d.Path)
		}
	}
	return missing, nil
}

func (f *fake) Missing(paths []store.Path) ([]store.Path, error) {
	return slices.DeleteFunc(slices.Clone(paths), func(p store.Path) bool { _, ok := f.infos[p]; return ok }), nil
}

func (f *fake) AddSubstitute(_ context.Context, p, expr store.Path) error {
	f.note(fmt.Sprintf("substitute %s %s", p, expr))
	return nil
}

func (f *fake) Import(_ context.Context, r io.Reader) ([]store.Path, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return []store.Path{path(string(b))}, nil
}

func (f *fake) ImportExprs(_ context.Context, files []string) ([]store.Path, error) {
	return []store.Path{path(filepath.Base(files[0]))}, nil
}

func (f *fake) Export(_ context.Context, w io.Writer, paths []store.Path) error {
	for _, p := range paths {
		if strings.HasSuffix(string(p), "-bad") {
			return fmt.Errorf("export %s: %w", p, store.ErrNotValid)
		}
		if _, err := io.WriteString(w, string(p)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Info(p store.Path) (store.Info, error) {
	if i, ok := f.infos[p]; ok {
		return i, nil
	}
	return store.Info{}, fmt.Errorf("info %s: %w", p, store.ErrNotValid)
}

func (f *fake) Expr(p store.Path) (storeexpr.Expr, error) {
	if e, ok := f.exprs[p]; ok {
		return e, nil
	}
	return nil, fmt.Errorf("read %s: %w", p, store.ErrNotValid)
}

func (f *fake) Related(_ context.Context, rel Relation, p store.Path) ([]store.Path, error) {
	return f.related[rel][p], nil
}

func (f *fake) Failure(p store.Path) (*store.Failure, error) { return f.failures[p], nil }

func (f *fake) Damage(p store.Path) (*store.Damage, error) { return f.damages[p], nil }

func (f *fake) LogFile(drv store.Path) string { return filepath.Join(f.logs, drv.Base()) }

func (f *fake) Verify(_ context.Context, o VerifyOptions, report func(Damage)) (Verified, error) {
	report(Damage{Path: path("one"), Problem: fmt.Sprint("contents ", o.Contents)})
	report(Damage{Path: path("two"), Problem: "missing"})
	return Verified{Paths: 9, Problems: 2}, nil
}

func (f *fake) Delete(_ context.Context, paths []store.Path) ([]store.Path, error) {
	if strings.HasSuffix(string(paths[0]), "-free") {
		return append(paths, path("with-it")), nil
	}
	return nil, fmt.Errorf("delete %s: %w", paths[0], store.ErrReferenced)
}

// serve starts a server for f on a real socket, until the test ends.
func (f *fake) serve() (*Server, string) {
	f.t.Helper()
	socket := filepath.Join(f.t.TempDir(), "socket")
	l, err := Listen(socket)
	if err != nil {
		f.t.Fatal(err)
	}
	s := f.server()
	serving(f.t, s, l)
	return s, socket
}

func (f *fake) server() *Server {
	return New(Options{
		Hello:    func() Hello { return Hello{PID: 7, Role: "mount", Store: dir} },
		Realiser: f, Adder: f, Mover: f, Querier: f, Records: f, Caretaker: f, Trails: f, Events: &f.events,
		Stop: func() { f.mu.Lock(); f.stopped++; f.mu.Unlock() },
	})
}

func serving(t testing.TB, s *Server, l net.Listener) {
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func dial(t testing.TB, socket string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (f *fake) Trails() ([]prefetch.Trail, error) { return f.trails, nil }

func (f *fake) AddTrails(_ context.Context, all []prefetch.Trail) (int, error) {
	for _, t := range all {
		if err := t.Check(dir); err != nil {
			return 0, err
		}
	}
	f.trails = append(f.trails, all...)
	return len(all), nil
}

// dialer makes a client of a server, which serves the socket.
type dialer func(t testing.TB, s *Server, socket string) *Client

// eachWay runs a test with clients at the socket, and with those that the
// server's own process has.
func eachWay(t *testing.T, test func(*testing.T, dialer)) {
	t.Run("socket", func(t *testing.T) {
		test(t, func(t testing.TB, _ *Server, socket string) *Client { return dial(t, socket) })
	})
	t.Run("direct", func(t *testing.T) {
		test(t, func(t testing.TB, s *Server, _ string) *Client {
			c, err := s.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			return c
		})
	})
}
