package main

import (
	"io"
	"os"
	"path/filepath"
)

// maxLog is how long the log of a mount in the background becomes before it begins anew:
// it has a line for each build, some 25 bytes, and nobody else makes room.
const maxLog = 8 << 20

// daemonLog is the standard error of a mount in the background. The holder has it open
// too, and so will later servers: so the file stays, and what is in it moves to another.
type daemonLog struct {
	file *os.File
	old  string // where to
	max  int64
	// written is how much was since the last look at the length, for which no write
	// should have to wait.
	written int64
}

func logPath(state string) string { return filepath.Join(state, "daemon.log") }

func newDaemonLog(file *os.File, state string) *daemonLog {
	return &daemonLog{file: file, old: logPath(state) + ".old", max: maxLog}
}

// messages is where a mount writes them: to stderr, which is kept short if it is the log in
// the state directory.
func messages(a *app) io.Writer {
	have, err := a.stderr.Stat()
	if err != nil {
		return a.stderr
	}
	if log, err := os.Stat(logPath(a.State)); err != nil || !os.SameFile(have, log) {
		return a.stderr
	}
	l := newDaemonLog(a.stderr, a.State)
	l.trim()
	return l
}

// Write is called by one at a time.
func (l *daemonLog) Write(p []byte) (int, error) {
	n, err := l.file.Write(p)
	if l.written += int64(n); l.written >= l.max/8 {
		l.written = 0
		l.trim()
	}
	return n, err
}

// trim begins the log anew if it is long. What cannot be kept stays where it is, for the
// next time. A line that the holder writes meanwhile may be lost.
func (l *daemonLog) trim() {
	st, err := l.file.Stat()
	if err != nil || st.Size() < l.max {
		return
	}
	scratch := l.old + ".new"
	to, err := os.OpenFile(scratch, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return
	}
	_, err = io.Copy(to, io.NewSectionReader(l.file, 0, st.Size()))
	if e := to.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(scratch, l.old)
	}
	if err != nil {
		_ = os.Remove(scratch)
		return
	}
	_ = l.file.Truncate(0)
}
