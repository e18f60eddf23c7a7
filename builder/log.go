package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"storefs/rawfile"
	"storefs/store"
)

const (
	maxLine     = 64 << 10 // longer lines are handed on in pieces
	tailLines   = 20
	maxTailLine = 4 << 10 // of each line in a Failure, which lives in the database
)

// buildLog is where a builder's output goes: all of it to a file, each line to
// whoever listens, and the last lines to a Failure.
type buildLog struct {
	path string
	file *os.File // nil until it is created
	line func([]byte)
	max  int64 // bytes; 0: no limit

	size    int64
	partial []byte   // a line that has not ended
	tail    []string // at most tailLines
	// active is when the last byte came, in nanoseconds since the log began: of a clock
	// that nobody sets.
	active atomic.Int64
	began  time.Time
}

// newLog is the log of a build, before it has a file. The name is Nix's:
// drvs/XX/REST.
func newLog(logs string, job Job) *buildLog {
	base := job.Drv.Base()
	return &buildLog{path: filepath.Join(logs, "drvs", base[:2], base[2:]), line: job.Log, max: job.Limits.MaxLog, began: time.Now()}
}

// create makes the file, in the place of that of an earlier build. A build whose spawner
// died before it began has it already.
func (l *buildLog) create() error {
	if l.file != nil {
		return nil
	}
	const flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	var err error
	if l.file, err = rawfile.Open(l.path, flags, 0o666); errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(l.path), 0o755); err == nil {
			l.file, err = rawfile.Open(l.path, flags, 0o666)
		}
	}
	return err
}

func (l *buildLog) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// stir ends a silence.
func (l *buildLog) stir() { l.active.Store(int64(time.Since(l.began))) }

// silentSince is when the last byte came.
func (l *buildLog) silentSince() time.Time { return l.began.Add(time.Duration(l.active.Load())) }

// write takes what the builder wrote. An error ends the build.
func (l *buildLog) write(p []byte) error {
	l.stir()
	over := l.max > 0 && l.size+int64(len(p)) > l.max
	if over {
		p = p[:l.max-l.size]
	}
	l.size += int64(len(p))
	if _, err := l.file.Write(p); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	for len(p) > 0 {
		if p[0] == '\n' {
			l.endLine()
			p = p[1:]
			continue
		}
		// A line is cut when more of it comes, not when it is full: its end may
		// be what comes.
		if len(l.partial) == maxLine {
			l.endLine()
		}
		piece := p[:min(len(p), maxLine-len(l.partial))]
		if i := bytes.IndexByte(piece, '\n'); i >= 0 {
			piece = piece[:i]
		}
		l.partial = append(l.partial, piece...)
		p = p[len(piece):]
	}
	if over {
		return fail(store.CauseLog, "the log is longer than %d bytes", l.max)
	}
	return nil
}

// endLine hands the current line on.
func (l *buildLog) endLine() {
	if l.line != nil {
		l.line(bytes.Clone(l.partial))
	}
	if len(l.tail) == tailLines {
		l.tail = append(l.tail[:0], l.tail[1:]...)
	}
	l.tail = append(l.tail, string(l.partial[:min(len(l.partial), maxTailLine)]))
	l.partial = l.partial[:0]
}

// flush hands on a last line that was not ended.
func (l *buildLog) flush() {
	if len(l.partial) > 0 {
		l.endLine()
	}
}

// last are the last lines, as text that survives JSON.
func (l *buildLog) last() []string {
	lines := make([]string, len(l.tail))
	for i, s := range l.tail {
		lines[i] = strings.ToValidUTF8(s, "�")
	}
	return lines
}
