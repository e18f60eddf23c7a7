package instantiate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// Error is a file that cannot be evaluated.
type Error struct {
	Pos   string // FILE:LINE:COLUMN, or FILE
	Msg   string // what is wrong, nearly always one line
	Trace string // how evaluation came there, outermost call first: "" or several lines
	err   error
}

// Error is one clear line, and the trace below it if there is one.
func (e *Error) Error() string {
	s := e.Pos + ": " + e.Msg
	if e.Trace != "" {
		s += "\n" + e.Trace
	}
	return s
}

// Unwrap is what a builtin function, or the parser, reported.
func (e *Error) Unwrap() error { return e.err }

// maxTrace is the most calls that Error.Trace shows: the outermost and the innermost.
const maxTrace = 40

// maxUnresolved is the most names that Error.Msg complains of.
const maxUnresolved = 20

// located turns what the interpreter returned for file into an *Error.
func (e *evaluation) located(file string, err error) error {
	// A failing load wraps the error of the loaded file. They run on one
	// thread: the innermost one has the whole stack.
	var inner *starlark.EvalError
	for at := err; ; {
		var ev *starlark.EvalError
		if !errors.As(at, &ev) {
			break
		}
		inner, at = ev, ev.Unwrap()
	}
	at := err
	if inner != nil {
		at = inner
	}
	out := &Error{Pos: file, Msg: strings.TrimSpace(err.Error()), err: err}
	var calls []string
	if inner != nil {
		out.Msg = inner.Msg
		for _, fr := range inner.CallStack {
			if e.files[fr.Pos.Filename()] == nil {
				continue // a builtin: its name is in the message
			}
			out.Pos = fr.Pos.String()
			calls = append(calls, "  "+out.Pos+": in "+fr.Name)
		}
	}
	called := out.Pos
	var bad syntax.Error
	var unresolved resolve.ErrorList
	switch {
	case errors.As(at, &bad):
		out.Pos, out.Msg = bad.Pos.String(), bad.Msg
	case errors.As(at, &unresolved) && len(unresolved) > 0:
		out.Pos, out.Msg = unresolved[0].Pos.String(), undeclared(unresolved[0].Msg)
		for _, u := range unresolved[1:min(maxUnresolved, len(unresolved))] {
			u.Msg = undeclared(u.Msg)
			out.Msg += "\n" + u.Error()
		}
		if more := len(unresolved) - maxUnresolved; more > 0 {
			out.Msg += fmt.Sprintf("\n… and %d more", more)
		}
	}
	if len(calls) > maxTrace {
		left := fmt.Sprintf("  … %d calls …", len(calls)-maxTrace)
		calls = slices.Concat(calls[:maxTrace/2], []string{left}, calls[len(calls)-maxTrace/2:])
	}
	// One call says no more than the position, unless that is in another file.
	if len(calls) > 1 || len(calls) == 1 && out.Pos != called {
		out.Trace = "called from (outermost first):\n" + strings.Join(calls, "\n")
	}
	return out
}
