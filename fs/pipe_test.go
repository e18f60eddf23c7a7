package fs

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What goes through a pipe is the header and the file's bytes, also where they do
// not begin at a page, and where the file ends before what was asked for.
func TestPipe(t *testing.T) {
	text := make([]byte, 2*pipeSize)
	for i := range text {
		text[i] = byte(i * 7 >> 8)
	}
	real := t.TempDir()
	if err := os.WriteFile(filepath.Join(real, "file"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := openBacking(real)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	nodes := newNodes()
	n, d := nodes.child(nodes.root, "file", kindObject), data{backing: b}
	s := make(pipes, 1)
	defer s.close()
	lend := func() *pipe {
		t.Helper()
		p := s.get()
		if p == nil {
			t.Fatal("no pipe")
		}
		return p
	}
	first := lend()
	s.put(first)
	for _, c := range []struct{ offset, size int }{
		{0, maxRead}, {4096, maxRead}, {123, maxRead}, {len(text) - maxRead, maxRead}, {len(text) - 1, maxRead}, {5, 3},
	} {
		p := lend()
		if p != first {
			t.Error("an empty pipe is not used again")
		}
		if err := d.fill(p, 42, n, uint64(c.offset), c.size); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "device"))
		if err != nil {
			t.Fatal(err)
		}
		for p.filled > 0 { // a file, other than a device, takes a part
			if err := p.send(int(out.Fd())); err != nil {
				t.Fatal(err)
			}
		}
		out.Close()
		s.put(p)
		got, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		want := text[c.offset:min(c.offset+c.size, len(text))]
		if len(got) != outHeader+len(want) || int(binary.NativeEndian.Uint32(got)) != len(got) ||
			binary.NativeEndian.Uint64(got[8:]) != 42 || !bytes.Equal(got[outHeader:], want) {
			t.Errorf("%+v: %d bytes, header %x", c, len(got), got[:outHeader])
		}
	}
	fd, err := unix.Open(filepath.Join(real, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, c := range []struct {
		what string
		fill func(p *pipe) error
		want error
	}{
		{"at the end", func(p *pipe) error { return d.fill(p, 1, n, uint64(len(text)), maxRead) }, io.EOF},
		{"less than it should be", func(p *pipe) error { return p.fill(1, fd, int64(len(text)-4096), 8192) }, io.ErrUnexpectedEOF},
		{"more than there is room for", func(p *pipe) error { return p.fill(1, fd, 0, len(text)) }, unix.EAGAIN},
	} {
		p := lend()
		if err := c.fill(p); err != c.want {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		used := p.filled > 0
		s.put(p)
		if kept := len(s) == 1; kept == used {
			t.Errorf("%s: a pipe with %d bytes in it is kept: %v", c.what, p.filled, kept)
		}
	}
}
