package nar

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"storefs/store"
)

const exportDir = store.Dir("/nix/store")

// exported is what a stream says of a path.
type exported struct {
	Member
	nar []byte
}

func (e exported) equal(o exported) bool {
	return e.Path == o.Path && e.Deriver == o.Deriver && slices.Equal(e.References, o.References) && bytes.Equal(e.nar, o.nar)
}

func writeExport(t testing.TB, members []exported) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewExportWriter(&b)
	for _, m := range members {
		must(t, w.Add(m.Member, func(w io.Writer) error {
			_, err := w.Write(m.nar)
			return err
		}))
	}
	must(t, w.Close())
	return b.Bytes()
}

func readExport(r io.Reader) ([]exported, error) {
	x := NewExportReader(r, exportDir)
	var members []exported
	for {
		r, err := x.Next(1 << 20)
		if err == io.EOF {
			return members, nil
		}
		if err != nil {
			return members, err
		}
		nar, err := io.ReadAll(r)
		if err != nil {
			return members, err
		}
		m, err := x.Trailer()
		if err != nil {
			return members, err
		}
		members = append(members, exported{m, nar})
	}
}

func exportSample() []exported {
	c := candidates(3)
	return []exported{
		{Member{Path: c[0]}, words(fileOf("text")...)},
		{Member{c[1], []store.Path{c[0], c[1]}, c[2]}, words(dirOf(entryOf("a", linkTo(string(c[0]))), entryOf("b", fileOf(strings.Repeat("x", 1000))))...)},
	}
}

func TestExport(t *testing.T) {
	want := exportSample()
	stream := writeExport(t, want)
	for how, r := range map[string]io.Reader{
		"at once":            bytes.NewReader(stream),
		"byte by byte":       iotest.OneByteReader(bytes.NewReader(stream)),
		"with more after it": io.MultiReader(bytes.NewReader(stream), strings.NewReader("something else")),
	} {
		got, err := readExport(r)
		if err != nil || !slices.EqualFunc(got, want, exported.equal) {
			t.Errorf("%s: %v, %v", how, got, err)
		}
	}
	if got, err := readExport(bytes.NewReader(writeExport(t, nil))); err != nil || len(got) != 0 {
		t.Errorf("an empty stream: %v, %v", got, err)
	}
}

// A member's archive may be left unread, or half read.
func TestExportSkip(t *testing.T) {
	want := exportSample()
	x := NewExportReader(bytes.NewReader(writeExport(t, want)), exportDir)
	for i, n := range []int64{0, 100} {
		r, err := x.Next(0)
		must(t, err)
		_, err = io.CopyN(io.Discard, r, n)
		must(t, err)
		if _, err := x.Next(0); err == nil || err == io.EOF {
			t.Errorf("the next member without the trailer of this one: %v", err)
		}
		m, err := x.Trailer()
		must(t, err)
		if m.Path != want[i].Path {
			t.Errorf("member %d is %s", i, m.Path)
		}
		if _, err := x.Trailer(); err == nil {
			t.Error("one trailer twice")
		}
	}
	for range 2 {
		if _, err := x.Next(0); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestExportBad(t *testing.T) {
	good := writeExport(t, exportSample())
	for n := range len(good) {
		_, err := readExport(bytes.NewReader(good[:n]))
		wantError(t, err, store.ErrBadArchive, "ends early")
	}
	nar := words(fileOf("x")...)
	path := string(candidates(1)[0])
	stream := func(ws ...any) []byte { return words(slices.Concat([]any{raw(nar)}, ws)...)[24:] }
	for _, c := range []struct {
		what, error string
		stream      []byte
	}{
		{"a NAR", "not an export stream", nar},
		{"a bad archive", `"nix-archive-2"`, words(u64(1), "nix-archive-2")[24:]},
		{"no magic", "0x4558494e must be", append(u64(1), stream(u64(7), path, u64(0), "", u64(0), u64(0))...)},
		{"a path elsewhere", "not in the store", append(u64(1), stream(u64(exportMagic), "/gnu/store/x", u64(0), "", u64(0), u64(0))...)},
		{"a reference that is none", "malformed store path", append(u64(1), stream(u64(exportMagic), path, u64(1), "/nix/store/x", "", u64(0), u64(0))...)},
		{"references that eat memory", "references where", append(u64(1), stream(u64(exportMagic), path, u64(1<<60))...)},
		{"a deriver that is none", "malformed store path", append(u64(1), stream(u64(exportMagic), path, u64(0), "unknown-deriver", u64(0), u64(0))...)},
		{"an unknown field", "0x2 where 1 or 0 must be", append(u64(1), stream(u64(exportMagic), path, u64(0), "", u64(2))...)},
	} {
		_, err := readExport(bytes.NewReader(c.stream))
		if err == nil {
			t.Errorf("%s: no error", c.what)
			continue
		}
		wantError(t, err, store.ErrBadArchive, c.error, "at byte ")
	}
	signed := append(u64(1), stream(u64(exportMagic), path, u64(0), "", u64(1), "signature", u64(0))...)
	if got, err := readExport(bytes.NewReader(signed)); err != nil || len(got) != 1 {
		t.Errorf("with a signature: %v, %v", got, err)
	}
	broken := io.MultiReader(bytes.NewReader(good[:500]), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := readExport(broken); !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, store.ErrBadArchive) {
		t.Errorf("a broken connection: %v", err)
	}
	large := writeExport(t, []exported{{Member{Path: store.Path(path)}, words(fileOf(strings.Repeat("x", 1<<20))...)}})
	_, err := readExport(bytes.NewReader(large))
	wantError(t, err, store.ErrBadArchive, "larger than 1048576")
}

// Whoever restores a member reads its archive by a second reader, which has
// nothing to add to where the first one saw an error.
func TestExportLocates(t *testing.T) {
	nar := words(fileOf("x")...)
	x := NewExportReader(bytes.NewReader(append(u64(1), nar[:len(nar)/2]...)), exportDir)
	member, err := x.Next(0)
	if err != nil {
		t.Fatal(err)
	}
	err = Restore(member, filepath.Join(t.TempDir(), "x"), RestoreOptions{})
	wantError(t, err, store.ErrBadArchive, "at byte ")
	if n := strings.Count(err.Error(), "at byte "); n != 1 {
		t.Errorf("%d times: %v", n, err)
	}
}

// FuzzExport: what was read, written again and read again is the same.
func FuzzExport(f *testing.F) {
	f.Add(writeExport(f, exportSample()))
	f.Add(writeExport(f, nil))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		got, err := readExport(bytes.NewReader(stream))
		if _, oneErr := readExport(iotest.OneByteReader(bytes.NewReader(stream))); (err == nil) != (oneErr == nil) {
			t.Fatalf("%v at once, %v byte by byte", err, oneErr)
		}
		if err != nil {
			if !errors.Is(err, store.ErrBadArchive) {
				t.Fatal(err)
			}
			return
		}
		again, err := readExport(bytes.NewReader(writeExport(t, got)))
		if err != nil || !slices.EqualFunc(got, again, exported.equal) {
			t.Fatalf("%v became %v, %v", got, again, err)
		}
	})
}
