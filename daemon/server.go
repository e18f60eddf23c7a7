package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"storefs/event"
	"storefs/store"
)

// Options say where a Server gets its answers.
type Options struct {
	Hello     func() Hello
	Realiser  Realiser
	Adder     Adder
	Mover     Mover
	Querier   Querier
	Records   Records
	Caretaker Caretaker
	// Denied are the callers of the mount who were kept from the path, the last one
	// last; nil: there is no mount.
	Denied func(p store.Path) []Denial
	Trails Trails
	Events *event.Bus
	// Mount is what the mount does, or nil; a nil Mount: there never is one.
	Mount func() *MountStatus
	// Stop ends the owner, soon after it returned. A nil Stop: clients cannot.
	Stop func()
	// Upgrade puts a new program in the owner's place, and returns when that
	// is about to take it. A nil Upgrade: the owner cannot.
	Upgrade func(ctx context.Context, program string) error
}

// Server answers the clients of one state directory.
type Server struct {
	Options
	http   http.Server
	ctx    context.Context // of all requests
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	draining bool          // no new clients are taken, but for those that only watch
	sessions int           // clients that Drain waits for
	changed  chan struct{} // closed, and made anew, when sessions changes
	requests sync.WaitGroup
}

// New makes a server. Serve starts it.
func New(o Options) *Server {
	s := &Server{Options: o, changed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.http = http.Server{
		Handler:     s.routes(),
		BaseContext: func(net.Listener) context.Context { return s.ctx },
		ConnContext: withCaller,
	}
	return s
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		method, name, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+prefix+name, func(w http.ResponseWriter, r *http.Request) {
			s.requests.Add(1)
			defer s.requests.Done()
			if err := h(w, r); err != nil {
				writeError(w, s.closing(err))
			}
		})
	}
	handle("GET session", s.session)
	handle("POST stop", s.stop)
	handle("POST upgrade", s.upgrade)
	handle("POST realise", s.realise)
	handle("POST plan", s.plan)
	handle("POST cancel", s.cancelGoals)
	handle("GET status", s.status)
	handle("GET watch", s.watch)
	handle("POST nar", s.addNAR)
	handle("POST texts", s.addTexts)
	handle("POST exprs", s.addExprs)
	handle("POST missing", s.missing)
	handle("POST missing-exprs", s.missingExprs)
	handle("POST substitute", s.addSubstitute)
	handle("POST import", s.importStream)
	handle("POST import-exprs", s.importExprs)
	handle("POST export", s.exportStream)
	handle("GET info", s.info)
	handle("GET expr", s.expr)
	handle("GET related", s.related)
	handle("POST graph", s.graph)
	handle("GET why", s.why)
	handle("GET log", s.log)
	handle("POST verify", s.verify)
	handle("POST delete", s.delete)
	handle("GET trails", s.trails)
	handle("POST trails", s.addTrails)
	return mux
}

// closing adds to the error of a request that Close has cancelled why it was.
func (s *Server) closing(err error) error {
	if s.ctx.Err() == nil || !errors.Is(err, context.Canceled) && !errors.Is(err, store.ErrCancelled) {
		return err
	}
	if errors.Is(err, ErrClosing) {
		return err // it says so
	}
	return fmt.Errorf("%w: %w", ErrClosing, err)
}

// Serve answers until Close has ended. It returns nil then.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(listener{l, s}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Drain takes no new clients, but for those that only watch, and waits for the others to
// leave; waiting is told once, with their number, if there are any after a second. When
// ctx ends it is Close.
func (s *Server) Drain(ctx context.Context, waiting func(clients int)) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	told := time.NewTimer(time.Second)
	defer told.Stop()
	for ctx.Err() == nil {
		s.mu.Lock()
		n, changed := s.sessions, s.changed
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-told.C:
			waiting(n)
		case <-ctx.Done():
		}
	}
	s.Close()
}

// Close cancels all requests, and waits until each was answered so, its client does not
// read that, or its connection is gone.
func (s *Server) Close() {
	s.cancel(ErrClosing)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.requests.Wait()
}

// session is open as long as a client is: it tells an owner that wants to end
// for whom to wait. A client that only watches is not waited for.
func (s *Server) session(w http.ResponseWriter, r *http.Request) error {
	counted := r.FormValue("watch") == ""
	s.mu.Lock()
	if s.ctx.Err() != nil || s.draining && counted {
		s.mu.Unlock()
		return ErrClosing
	}
	if counted {
		s.countSession(1)
	}
	s.mu.Unlock()
	defer func() {
		if counted {
			s.mu.Lock()
			s.countSession(-1)
			s.mu.Unlock()
		}
	}()
	writeJSON(w, s.Hello())
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
	return nil
}

// countSession needs s.mu.
func (s *Server) countSession(n int) {
	s.sessions += n
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) stop(w http.ResponseWriter, _ *http.Request) error {
	if s.Stop == nil {
		return fmt.Errorf("stop: the owner is a `storefs %s`, which ends by itself: %w", s.Hello().Role, store.ErrRefused)
	}
	writeJSON(w, s.Hello())
	s.Stop()
	return nil
}

type upgradeRequest struct {
	Program string `json:"program"`
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) error {
	var req upgradeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if s.Upgrade == nil {
		return fmt.Errorf("upgrade: the owner is a `storefs %s` that does not outlive itself: %w", s.Hello().Role, store.ErrRefused)
	}
	if err := s.Upgrade(r.Context(), req.Program); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	writeJSON(w, s.Hello())
	return nil
}

// maxBody bounds requests in JSON. The longest are lists of store expressions;
// clients send long ones in pieces.
const maxBody = 256 << 20

// firstRoom is the most that is set aside for a request because it says that it is as
// long: a client may say so, and send nothing.
const firstRoom = 1 << 20

// readJSON reads the body as v.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	return readRequest(w, r, func(data []byte) error { return json.Unmarshal(data, v) })
}

// readRequest reads the body to its end: only then does the HTTP server look
// whether the client is still there, and end the request's context if not.
func readRequest(w http.ResponseWriter, r *http.Request, decode func([]byte) error) error {
	var b bytes.Buffer
	b.Grow(int(min(max(0, r.ContentLength), firstRoom)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = decode(b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	return nil
}

// pathOf is the store path that the request's parameter names.
func (s *Server) pathOf(r *http.Request, name string) (store.Path, error) {
	return s.Hello().Store.Parse(r.FormValue(name))
}
