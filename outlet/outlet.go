// Package outlet writes what a server says to a file that somebody may read, or not: a
// pipe that is full, or a terminal that was stopped, keeps nobody waiting. It is not a
// log: what there is no room for is only counted.
package outlet

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// room is how much is kept while nobody reads, in bytes.
const room = 64 << 10

// Outlet is a writer that does not wait. Its methods may be called from any goroutine.
type Outlet struct {
	w      io.Writer
	direct bool // the file takes all that there is
	within bool // a line of that has begun

	mu     sync.Mutex
	kept   [][]byte      // each what one Write had, oldest first; one of them may be on its way
	size   int           // of kept
	lost   int           // lines that there was no room for, since the last of kept
	change chan struct{} // closed with each that was written, or could not be; nil: none is on its way
}

// Stamp is the form of the time before each line of a regular file.
const Stamp = "2006-01-02 15:04:05 "

// stamped is p with the time before each line: who reads a file later has no other, as
// a terminal's user and a service manager have.
func (o *Outlet) stamped(p []byte) []byte {
	var b []byte
	for line := range bytes.Lines(p) {
		if !o.within {
			b = time.Now().AppendFormat(b, Stamp)
		}
		b = append(b, line...)
		o.within = !bytes.HasSuffix(line, []byte("\n"))
	}
	return b
}

// New writes to w, by which f is written, from one goroutine at a time. For a regular
// file it waits as any writer does: nobody has to read that. There, each line begins with
// the time.
func New(f *os.File, w io.Writer) *Outlet {
	st, err := f.Stat()
	return &Outlet{w: w, direct: err == nil && st.Mode().IsRegular()}
}

// Write has p written, or, where nobody has read what came before, drops it. There is no
// error, except of a regular file.
func (o *Outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.direct {
		n := len(p)
		if _, err := o.w.Write(o.stamped(p)); err != nil {
			return 0, err
		}
		return n, nil
	}
	if o.size > 0 && o.size+len(p) > room {
		o.lost += bytes.Count(p, []byte("\n"))
		return len(p), nil
	}
	o.tellLost()
	o.keep(bytes.Clone(p)) // p is not anybody's afterwards
	if o.change == nil {
		o.change = make(chan struct{})
		go o.drain()
	}
	return len(p), nil
}

func (o *Outlet) keep(p []byte) {
	o.kept = append(o.kept, p)
	o.size += len(p)
}

func (o *Outlet) tellLost() {
	if o.lost > 0 {
		o.keep(fmt.Appendf(nil, "(%s not shown: nobody read what came before)\n", lines(o.lost)))
		o.lost = 0
	}
}

func lines(n int) string {
	if n == 1 {
		return "1 line is"
	}
	return fmt.Sprintf("%d lines are", n)
}

// drain writes what is kept, until nothing is. Each piece is one system call, as others
// may write to the same pipe.
func (o *Outlet) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.kept) > 0 {
		p := o.kept[0]
		o.mu.Unlock()
		_, _ = o.w.Write(p) // whoever closed the file does not want to see it
		o.mu.Lock()
		o.kept[0], o.kept = nil, o.kept[1:]
		o.size -= len(p)
		if len(o.kept) == 0 {
			o.kept = nil
			o.tellLost()
		}
		close(o.change)
		o.change = make(chan struct{})
	}
	o.change = nil
}

// Flush waits until all is written, or nothing was for as long as patience, and ten times
// as long at most: then what is left may stay unwritten, and a goroutine waits for it until
// the process ends.
func (o *Outlet) Flush(patience time.Duration) {
	end := time.Now().Add(10 * patience)
	t := time.NewTimer(patience)
	defer t.Stop()
	for {
		o.mu.Lock()
		change := o.change
		o.mu.Unlock()
		if change == nil {
			return
		}
		select {
		case <-change:
			t.Reset(min(patience, time.Until(end)))
		case <-t.C:
			return
		}
	}
}
