package outlet

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// tap is a writer that waits while nobody reads.
type tap struct {
	open chan struct{} // has an element for each piece that is read; closed: all are
	bytes.Buffer
}

func (f *tap) Write(p []byte) (int, error) {
	<-f.open
	return f.Buffer.Write(p)
}

// pipe is an outlet for w, as for a pipe.
func pipe(t *testing.T, w io.Writer) *Outlet {
	t.Helper()
	r, f, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer f.Close()
	return New(f, w)
}

func TestNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tap{open: make(chan struct{})}
		o := pipe(t, f)
		var lines []string
		for i := range 1000 {
			line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 100))
			lines = append(lines, line)
			fmt.Fprint(o, line)
		}
		began := time.Now()
		o.Flush(time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("Flush took %v where nobody reads", took)
		}
		// Whoever reads at last, slowly, has all that was kept, and then how much was not.
		go func() {
			for range 10 {
				time.Sleep(time.Second - 1)
				f.open <- struct{}{}
			}
			close(f.open)
		}()
		o.Flush(time.Second)
		got := f.String()
		kept := strings.Count(got, "line ")
		want := strings.Join(lines[:kept], "") + fmt.Sprintf("(%d lines are not shown: nobody read what came before)\n", len(lines)-kept)
		if got != want || len(got) < room/2 || len(got) > room+100 {
			t.Errorf("%d bytes, %d lines: …%s", len(got), kept, got[max(0, len(got)-200):])
		}
		// Then it is as it was at first.
		f.Reset()
		fmt.Fprint(o, "more\n")
		o.Flush(time.Second)
		if got := f.String(); got != "more\n" {
			t.Errorf("%q", got)
		}
	})
}

// What was lost is told where it would have been.
func TestLostInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tap{open: make(chan struct{})}
		o := pipe(t, f)
		first := strings.Repeat("1", room-100) + "\n"
		fmt.Fprint(o, first)
		fmt.Fprint(o, "second\n")
		fmt.Fprint(o, strings.Repeat("3", 200)+"\n")
		f.open <- struct{}{}
		synctest.Wait()
		fmt.Fprint(o, "fourth\n")
		close(f.open)
		o.Flush(time.Second)
		if got, want := f.String(), first+"second\n(1 line is not shown: nobody read what came before)\nfourth\n"; got != want {
			t.Errorf("…%s", strings.TrimLeft(got, "1"))
		}
	})
}

// A regular file has it when Write returns, each line with its time, and an error is the
// writer's.
func TestRegularFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	o := New(f, f)
	began := time.Now().Truncate(time.Second)
	fmt.Fprint(o, "line\nbeg")
	fmt.Fprint(o, "un\n")
	b, err := os.ReadFile(name)
	var lines []string
	for line := range strings.Lines(string(b)) {
		n := min(len(Stamp), len(line))
		if at, err := time.ParseInLocation(Stamp, line[:n], time.Local); err != nil || at.Before(began) || at.After(time.Now()) {
			t.Errorf("%q: %v", line, err)
		}
		lines = append(lines, line[n:])
	}
	if err != nil || !slices.Equal(lines, []string{"line\n", "begun\n"}) {
		t.Errorf("%q, %v", b, err)
	}
	f.Close()
	if _, err := fmt.Fprint(o, "line\n"); err == nil {
		t.Error("no error of a closed file")
	}
}

// Who reads a line from time to time holds nobody up for as many.
func TestReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tap{open: make(chan struct{})}
		o := pipe(t, f)
		for i := range 100 {
			fmt.Fprintf(o, "line %d\n", i)
		}
		enough, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-time.After(900 * time.Millisecond):
					f.open <- struct{}{}
				case <-enough:
					close(f.open)
					return
				}
			}
		}()
		begin := time.Now()
		o.Flush(time.Second)
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("it took %v", d)
		}
		close(enough)
		<-ended
		synctest.Wait()
	})
}
