package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"

	"storefs/store"
)

// ErrClosing: the owner of the state is ending and takes no new clients.
var ErrClosing = errors.New("the owner of the store is ending")

// ErrGone: the connection to the owner broke before the answer was complete.
var ErrGone = errors.New("the owner of the store has gone")

// ErrOtherVersion: the owner does not know the request.
var ErrOtherVersion = errors.New("another version of storefs")

// kinds names the sentinels that errors.Is finds on the client's side too, with
// the HTTP status that goes with each. The first that fits counts: the causes
// of failures stand before what they may wrap.
var kinds = []struct {
	name   string
	err    error
	status int
}{
	{"bad-path", store.ErrBadPath, http.StatusBadRequest},
	{"bad-expression", store.ErrBadExpr, http.StatusBadRequest},
	{"bad-archive", store.ErrBadArchive, http.StatusBadRequest},
	{"unfit", store.ErrUnfit, http.StatusBadRequest},
	{"unknown", store.ErrUnknown, http.StatusNotFound},
	{"not-valid", store.ErrNotValid, http.StatusNotFound},
	{"in-use", store.ErrInUse, http.StatusConflict},
	{"referenced", store.ErrReferenced, http.StatusConflict},
	{"build-failed", store.ErrBuildFailed, http.StatusUnprocessableEntity},
	{"timeout", store.ErrTimeout, http.StatusUnprocessableEntity},
	{"hash-mismatch", store.ErrHashMismatch, http.StatusUnprocessableEntity},
	{"not-deterministic", store.ErrNotDeterministic, http.StatusUnprocessableEntity},
	{"refused", store.ErrRefused, http.StatusUnprocessableEntity},
	{"cycle", store.ErrCycle, http.StatusUnprocessableEntity},
	{"no-space", store.ErrNoSpace, http.StatusInsufficientStorage},
	{"unreachable", store.ErrUnreachable, http.StatusBadGateway},
	{"not-allowed", store.ErrNotAllowed, http.StatusForbidden},
	{"cancelled", store.ErrCancelled, http.StatusServiceUnavailable},
	{"closing", ErrClosing, http.StatusServiceUnavailable},
	{"not-found", fs.ErrNotExist, http.StatusNotFound},
}

// wireError is an error on its way through the socket.
type wireError struct {
	Message  string           `json:"error"`
	Kinds    []string         `json:"kinds,omitempty"`
	Failures []*store.Failure `json:"failures,omitempty"`
}

func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Message: err.Error(), Failures: Failures(err)}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			w.Kinds = append(w.Kinds, k.name)
		}
	}
	return w
}

// httpStatus is the status of a response that is nothing but err.
func httpStatus(err error) int {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

// Failures collects all failures that err consists of or wraps.
func Failures(err error) []*store.Failure {
	var all []*store.Failure
	switch e := err.(type) {
	case nil:
	case *store.Failure:
		all = []*store.Failure{e}
	case interface{ Unwrap() []error }:
		for _, sub := range e.Unwrap() {
			for _, f := range Failures(sub) {
				if !slices.Contains(all, f) {
					all = append(all, f)
				}
			}
		}
	case interface{ Unwrap() error }:
		all = Failures(e.Unwrap())
	}
	return all
}

// remoteError is an error of the owner, on the client's side: errors.Is finds
// its sentinels, errors.As its failures.
type remoteError struct {
	message string
	causes  []error
}

func (e *remoteError) Error() string   { return e.message }
func (e *remoteError) Unwrap() []error { return e.causes }

func (w *wireError) decode() error {
	if w == nil {
		return nil
	}
	if len(w.Failures) == 1 && w.Failures[0].Error() == w.Message {
		return w.Failures[0]
	}
	e := &remoteError{message: w.Message}
	for _, f := range w.Failures {
		e.causes = append(e.causes, f)
	}
	for _, name := range w.Kinds {
		for _, k := range kinds {
			if k.name == name {
				e.causes = append(e.causes, k.err)
			}
		}
	}
	return e
}

// responseError reads the error that a response other than 200 carries.
func responseError(r *http.Response) error {
	var w wireError
	err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<20)).Decode(&w)
	if err != nil || w.Message == "" {
		return fmt.Errorf("the owner of the store answered %s: %w?", r.Status, ErrOtherVersion)
	}
	return w.decode()
}

// transportError says what became of a connection: not how HTTP calls it.
func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", store.ErrCancelled, ctx.Err())
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}
