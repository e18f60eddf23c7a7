package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"storefs/store"
)

func (s *Server) addNAR(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	return upload(w, r, func(body io.Reader) (any, error) {
		return s.Adder.AddNAR(r.Context(), q.Get("name"), q.Get("flat") == "", store.Algo(q.Get("algo")), body)
	})
}

// upload answers a request whose body is a stream of any length. An error is
// answered while the client still sends, and what it sends is read until it
// has understood: it would find its connection broken instead of the answer.
func upload(w http.ResponseWriter, r *http.Request, f func(io.Reader) (any, error)) error {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		return err
	}
	result, err := f(r.Body)
	if err != nil {
		writeError(w, err)
		_ = rc.Flush()
		_, _ = io.Copy(io.Discard, r.Body)
		return nil
	}
	writeJSON(w, result)
	return nil
}

func (s *Server) addTexts(w http.ResponseWriter, r *http.Request) error {
	return addAll(w, r, s.Adder.AddTexts)
}

func (s *Server) addExprs(w http.ResponseWriter, r *http.Request) error {
	return addAll(w, r, s.Adder.AddExprs)
}

func addAll(w http.ResponseWriter, r *http.Request, add func(context.Context, []Text) ([]store.Path, error)) error {
	var texts []Text
	if err := readJSON(w, r, &texts); err != nil {
		return err
	}
	paths, err := add(r.Context(), texts)
	if err != nil {
		return err
	}
	writeJSON(w, paths)
	return nil
}

func (s *Server) missing(w http.ResponseWriter, r *http.Request) error {
	var req pathsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	paths, err := s.Querier.Missing(req.Paths)
	if err != nil {
		return err
	}
	writeJSON(w, paths)
	return nil
}

func (s *Server) missingExprs(w http.ResponseWriter, r *http.Request) error {
	var declared []Declaration
	if err := readJSON(w, r, &declared); err != nil {
		return err
	}
	paths, err := s.Querier.MissingExprs(declared)
	if err != nil {
		return err
	}
	writeJSON(w, paths)
	return nil
}

type substituteRequest struct {
	Path store.Path `json:"path"`
	Expr store.Path `json:"expr"`
}

func (s *Server) addSubstitute(w http.ResponseWriter, r *http.Request) error {
	var req substituteRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if err := s.Adder.AddSubstitute(r.Context(), req.Path, req.Expr); err != nil {
		return err
	}
	writeJSON(w, struct{}{})
	return nil
}

func (s *Server) importStream(w http.ResponseWriter, r *http.Request) error {
	return upload(w, r, func(body io.Reader) (any, error) { return s.Mover.Import(r.Context(), body) })
}

type filesRequest struct {
	Files []string `json:"files"` // absolute
}

func (s *Server) importExprs(w http.ResponseWriter, r *http.Request) error {
	var req filesRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	paths, err := s.Mover.ImportExprs(r.Context(), req.Files)
	if err != nil {
		return err
	}
	writeJSON(w, paths)
	return nil
}

type pathsRequest struct {
	Paths []store.Path `json:"paths"`
}

// errorTrailer carries what went wrong after the first byte of a body.
const errorTrailer = "Storefs-Error"

func (s *Server) exportStream(w http.ResponseWriter, r *http.Request) error {
	var req pathsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	return sendBody(w, func(body io.Writer) error { return s.Mover.Export(r.Context(), body, req.Paths) })
}

// sendBody answers with what f writes. An error before the first byte is an
// ordinary error answer; after it, it travels in the trailer, which is there in
// any case: a client that finds none was cut off.
func sendBody(w http.ResponseWriter, f func(io.Writer) error) error {
	w.Header().Set("Trailer", errorTrailer)
	w.Header().Set("Content-Type", "application/octet-stream")
	body := &bodyWriter{w: w}
	err := f(body)
	if err != nil && !body.begun {
		w.Header().Del("Trailer")
		return err
	}
	end, merr := json.Marshal(encodeError(err))
	if merr != nil {
		return merr
	}
	w.Header().Set(errorTrailer, string(end))
	return nil
}

type bodyWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (b *bodyWriter) flush() { _ = http.NewResponseController(b.w).Flush() }

func (b *bodyWriter) Write(p []byte) (int, error) {
	b.begun = true
	return b.w.Write(p)
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) error {
	var o VerifyOptions
	if err := readJSON(w, r, &o); err != nil {
		return err
	}
	out := newStreamWriter(w)
	sum, err := s.Caretaker.Verify(r.Context(), o, func(d Damage) { sendEvents(out, d) })
	out.end(sum, err)
	return nil
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) error {
	var req pathsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	deleted, err := s.Caretaker.Delete(r.Context(), req.Paths)
	if err != nil {
		return err
	}
	writeJSON(w, deleted)
	return nil
}

func (s *Server) info(w http.ResponseWriter, r *http.Request) error {
	p, err := s.pathOf(r, "path")
	if err != nil {
		return err
	}
	info, err := s.Querier.Info(p)
	if err != nil {
		return err
	}
	writeJSON(w, info)
	return nil
}

func (s *Server) expr(w http.ResponseWriter, r *http.Request) error {
	p, err := s.pathOf(r, "path")
	if err != nil {
		return err
	}
	e, err := s.Querier.Expr(p)
	if err != nil {
		return err
	}
	_, err = w.Write(e.AppendText(nil))
	return err
}

func (s *Server) related(w http.ResponseWriter, r *http.Request) error {
	rel := Relation(r.FormValue("relation"))
	var p store.Path
	if rel != Roots || r.FormValue("path") != "" {
		var err error
		if p, err = s.pathOf(r, "path"); err != nil {
			return err
		}
	}
	paths, err := s.Querier.Related(r.Context(), rel, p)
	if err == nil && len(paths) == 0 && p != "" {
		err = s.known(r.Context(), p)
	}
	if err != nil {
		return err
	}
	if paths == nil {
		paths = []store.Path{}
	}
	writeJSON(w, paths)
	return nil
}

// known tells "none" from an answer about a path that nobody has heard of.
func (s *Server) known(ctx context.Context, p store.Path) error {
	_, err := s.Querier.Info(p)
	if !errors.Is(err, store.ErrNotValid) {
		return err
	}
	for _, rel := range []Relation{Deriver, Substitutes} {
		if ways, err := s.Querier.Related(ctx, rel, p); err != nil || len(ways) > 0 {
			return err
		}
	}
	return fmt.Errorf("query %s: %w", p, store.ErrUnknown)
}
