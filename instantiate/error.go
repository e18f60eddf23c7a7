package instantiate

import (
	"errors"
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
	if inner != nil {
		out.Msg = inner.Msg
		e.trace(out, inner.CallStack)
	}
	var bad syntax.Error
	var unresolved resolve.ErrorList
	switch {
	case errors.As(at, &bad):
		out.Pos, out.Msg = bad.Pos.String(), bad.Msg
	case errors.As(at, &unresolved) && len(unresolved) > 0:
		out.Pos, out.Msg = unresolved[0].Pos.String(), unresolved[0].Msg
		for _, u := range unresolved[1:] {
			out.Msg += "\n" + u.Error()
		}
	}
	return out
}

// trace fills in the position of the innermost call that a file makes, and
// the calls that led there if there was more than one.
func (e *evaluation) trace(out *Error, stack starlark.CallStack) {
	var lines []string
	for _, fr := range stack {
		if e.files[fr.Pos.Filename()] == nil {
			continue // a builtin: its name is in the message
		}
		out.Pos = fr.Pos.String()
		lines = append(lines, "  "+out.Pos+": in "+fr.Name)
	}
	if len(lines) > 1 {
		out.Trace = "called from (outermost first):\n" + strings.Join(lines, "\n")
	}
}
