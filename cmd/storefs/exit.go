package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"storefs/daemon"
	"storefs/instantiate"
	"storefs/progress"
	"storefs/store"
)

// Exit statuses. Those of failed builds are Nix's, and are or-ed together when
// there were several.
const (
	statusDone        = 0
	statusRefused     = 1
	statusUsage       = 2
	statusFailed      = 100
	statusTimeout     = 101
	statusHash        = 102
	statusDeterminism = 104
	statusInterrupted = 130
	statusUnread      = 141 // what a shell says of whom SIGPIPE has ended
)

// statusHelp is the end of `storefs --help`.
const statusHelp = `Exit status: 0 done; 1 refused (another platform, a forbidden reference, a missing output, too long a log), or another error; 2 wrong usage or unreadable input; 130 interrupted; ` +
	`141 nobody reads what it prints. ` +
	`When builds failed: 100 a builder failed, 101 it ran out of time, 102 the hash of a fixed output differs, ` +
	`104 two builds differ; or-ed together when there were several.`

// inputError is what the user gave: wrong usage, or a file that cannot be read.
type inputError struct{ err error }

func (e *inputError) Error() string { return e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// badInput makes err an error of the input; nil stays nil.
func badInput(err error) error {
	if err == nil {
		return nil
	}
	return &inputError{err}
}

func badInputf(format string, args ...any) error {
	return &inputError{fmt.Errorf(format, args...)}
}

// quietError has been told already; only its status is left.
type quietError struct{ err error }

func (e *quietError) Error() string { return e.err.Error() }
func (e *quietError) Unwrap() error { return e.err }

// isUnread reports whether err says that nobody reads stdout any more.
func isUnread(err error) bool {
	var path *os.PathError
	return errors.As(err, &path) && path.Path == os.Stdout.Name() && errors.Is(path, unix.EPIPE)
}

// exitStatus is the only place where the status for an error is decided.
func exitStatus(err error) int {
	var (
		input *inputError
		parse *kong.ParseError
		eval  *instantiate.Error
	)
	switch {
	case err == nil:
		return statusDone
	case errors.Is(err, errInterrupted):
		return statusInterrupted
	case isUnread(err):
		return statusUnread
	case errors.As(err, &input), errors.As(err, &parse), errors.As(err, &eval):
		return statusUsage
	}
	builds, others := 0, false
	for _, f := range daemon.Failures(err) {
		switch f.Cause {
		case store.CauseBuilder:
			builds |= statusFailed
		case store.CauseTimeout:
			builds |= statusTimeout
		case store.CauseHash:
			builds |= statusHash
		case store.CauseDeterminism:
			builds |= statusDeterminism
		default:
			others = true
		}
	}
	switch {
	case builds != 0:
		return builds // with 1 or-ed to it, 100 would say 101
	case others:
		return statusRefused
	case errors.Is(err, store.ErrBadPath), errors.Is(err, store.ErrBadExpr), errors.Is(err, store.ErrBadArchive):
		return statusUsage
	}
	return statusRefused
}

// report says what went wrong, on stderr: one line, and for a failed build the
// end of its log, if that was not shown when it failed.
func (a *app) report(err error) {
	var quiet *quietError
	if errors.As(err, &quiet) || isUnread(err) {
		return
	}
	out := a.news()
	if errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) {
		fmt.Fprintln(out, "storefs: interrupted")
		return
	}
	failures := daemon.Failures(err)
	if len(failures) == 0 {
		// What a Starlark file has to say of itself may have several lines.
		for line := range strings.Lines(err.Error()) {
			prefix := ""
			if strings.HasPrefix(err.Error(), line) {
				prefix = "storefs: "
			}
			fmt.Fprintln(out, prefix+progress.Clean(line))
		}
		return
	}
	more := "the whole story: storefs why"
	var told map[store.Path]bool
	if b, ok := errors.AsType[*buildError](err); ok {
		told = b.told
		if b.check {
			more = "the whole log: storefs log"
		}
	}
	for _, f := range failures {
		fmt.Fprintln(out, "storefs: "+progress.Clean(f.Error()))
		if !told[f.Path] {
			for _, line := range f.Log {
				fmt.Fprintln(out, "  "+progress.Clean(line))
			}
		}
		if f.Kept != "" {
			fmt.Fprintln(out, "  kept: "+f.Kept)
		}
		if f.Builder != "" {
			fmt.Fprintf(out, "  %s %s\n", more, f.Path)
		}
	}
}

// fileError is an error about a file that the user named.
func fileError(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return badInput(err)
	}
	return err
}
