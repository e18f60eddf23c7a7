package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// raw is put into an archive as it is, everything else as a string.
type raw []byte

// words makes an archive of strings and raw bytes.
func words(ws ...any) []byte {
	b := appendString(nil, magic)
	for _, w := range ws {
		switch w := w.(type) {
		case string:
			b = appendString(b, w)
		case raw:
			b = append(b, w...)
		case []any:
			b = append(b, words(w...)[24:]...)
		}
	}
	return b
}

func u64(n uint64) raw { return binary.LittleEndian.AppendUint64(nil, n) }

func entryOf(name string, node []any) []any {
	return slices.Concat([]any{"entry", "(", "name", name, "node"}, node, []any{")"})
}

func dirOf(entries ...[]any) []any {
	return slices.Concat([]any{"(", "type", "directory"}, slices.Concat(entries...), []any{")"})
}

func fileOf(text string) []any   { return []any{"(", "type", "regular", "contents", text, ")"} }
func linkTo(target string) []any { return []any{"(", "type", "symlink", "target", target, ")"} }

func TestRestore(t *testing.T) {
	path := inTemp(t, sample())
	archive := dump(t, path)
	for how, r := range map[string]io.Reader{
		"at once":       bytes.NewReader(archive),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(archive)),
		"end with data": iotest.DataErrReader(bytes.NewReader(archive)),
	} {
		dest := filepath.Join(tempDir(t), "restored")
		if err := Restore(r, dest, RestoreOptions{MaxSize: int64(len(archive))}); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if !bytes.Equal(dump(t, dest), archive) {
			t.Errorf("%s: restored something else", how)
		}
		restored := modes(t, dest)
		ingest(t, dest)
		if canonical := modes(t, dest); !slices.Equal(restored, canonical) {
			t.Errorf("%s: restored\n%s\nwhich is not canonical:\n%s", how, strings.Join(restored, "\n"), strings.Join(canonical, "\n"))
		}
	}
}

func TestRestoreHostile(t *testing.T) {
	a := fileOf("a")
	long := strings.Repeat("n", 256)
	for _, c := range []struct {
		what    string
		archive []byte
		error   string
	}{
		{"nothing", nil, "ends early"},
		{"another format", []byte("\x1f\x8b\x08 is gzip, and not an archive"), "bytes where 16 are the most"},
		{"a newer version", appendString(nil, "nix-archive-2"), `"nix-archive-2"`},
		{"only its head", words(), "ends early"},
		{"up", words(dirOf(entryOf("..", a))...), `the name ".."`},
		{"here", words(dirOf(entryOf(".", a))...), `the name "."`},
		{"no name", words(dirOf(entryOf("", a))...), `the name ""`},
		{"a path", words(dirOf(entryOf("a/b", a))...), `the name "a/b"`},
		{"an absolute path", words(dirOf(entryOf("/etc", a))...), `the name "/etc"`},
		{"a NUL", words(dirOf(entryOf("a\x00b", a))...), `the name "a\x00b"`},
		{"a long name", words(dirOf(entryOf(long, a))...), "a string of 256 bytes"},
		{"a name that eats memory", words("(", "type", "directory", "entry", "(", "name", u64(1<<62)), "a string of 4611686018427387904 bytes"},
		{"disorder", words(dirOf(entryOf("b", a), entryOf("a", a))...), `"a" after "b"`},
		{"a duplicate", words(dirOf(entryOf("a", a), entryOf("a", a))...), `"a" twice`},
		{"through a link", words(dirOf(entryOf("a", linkTo("/tmp")), entryOf("a", dirOf(entryOf("f", a))))...), `"a" twice`},
		{"an unknown type", words("(", "type", "fifo", ")"), `type "fifo"`},
		{"no type", words("(", ")"), `"type" must be`},
		{"a file without contents", words("(", "type", "regular", ")"), `"contents" must be`},
		{"executable with a value", words("(", "type", "regular", "executable", "yes", "contents", "", ")"), `"yes" where "" must be`},
		{"a link to nothing", words(linkTo("")...), `the link target ""`},
		{"a link to a NUL", words(linkTo("a\x00b")...), `the link target`},
		{"a link target too long", words(linkTo(strings.Repeat("x", 4096))...), "a string of 4096 bytes"},
		{"padding", words("(", "type", "regular", "contents", u64(1), raw("x\x00\x00\x00\x00\x00\x01\x00")), "padding that is not zero"},
		{"padding of a word", words(u64(1), raw("(\x01\x00\x00\x00\x00\x00\x00")), "padding that is not zero"},
		{"contents that eat the disk", words("(", "type", "regular", "contents", u64(1<<40), raw("x")), "larger than 1048576 bytes"},
		{"contents of a negative size", words("(", "type", "regular", "contents", u64(1<<63), raw("x")), "larger than 1048576 bytes"},
		{"more behind it", append(words(a...), 0), "more bytes follow"},
		{"more behind a link", append(words(linkTo("x")...), 0), "more bytes follow"},
		{"an entry without its name", words("(", "type", "directory", "entry", "(", "node", a, ")", ")"), `"node" where "name" must be`},
		{"a file that does not end", words("(", "type", "regular", "contents", "x", "("), `"(" where ")" must be`},
		{"an entry that does not end", words("(", "type", "directory", "entry", "(", "name", "a", "node", dirOf(), "(", ")"), `"(" where ")" must be`},
		{"a field too many", words("(", "type", "symlink", "target", "x", "target", "y", ")"), `"target" where ")" must be`},
		{"an entry outside of a directory", words("(", "type", "symlink", "target", "x", entryOf("a", a)), `"entry" where ")" must be`},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := tempDir(t)
			dest := filepath.Join(dir, "dest")
			err := Restore(bytes.NewReader(c.archive), dest, RestoreOptions{MaxSize: 1 << 20})
			wantError(t, err, store.ErrBadArchive, c.error, dest, "at byte ")
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("%v is left", entries)
			}
			if _, err := HashStream(bytes.NewReader(c.archive)); !errors.Is(err, store.ErrBadArchive) {
				t.Errorf("hashed with the error %v", err)
			}
		})
	}
}

// onlyDest checks that dir holds nothing but dest.
func onlyDest(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if e.Name() != "dest" {
			t.Errorf("there is a file %q outside", e.Name())
		}
	}
}

// An archive cut anywhere is an error, and never a panic or half a success: nothing
// is left of it.
func TestRestoreCut(t *testing.T) {
	dir := memDir(t)
	for _, whole := range []node{sample(), file("contents"), link("elsewhere")} {
		archive := dump(t, inTemp(t, whole))
		for n := range len(archive) {
			err := Restore(bytes.NewReader(archive[:n]), filepath.Join(dir, "dest"), RestoreOptions{})
			if !errors.Is(err, store.ErrBadArchive) || !strings.Contains(err.Error(), "ends early") {
				t.Fatalf("cut at %d: %v", n, err)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Fatalf("cut at %d: %v is left", n, entries)
			}
		}
	}
}

func removeTree(t testing.TB, path string) {
	t.Helper()
	_ = filepath.WalkDir(path, func(path string, d os.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	must(t, os.RemoveAll(path))
}

// What a connection, or a disk, does wrong is not the archive's fault.
func TestRestoreInputError(t *testing.T) {
	archive := dump(t, inTemp(t, sample()))
	for _, n := range []int{0, 1, 500, len(archive)} {
		broken := io.MultiReader(bytes.NewReader(archive[:n]), iotest.ErrReader(io.ErrClosedPipe))
		err := Restore(broken, filepath.Join(tempDir(t), "dest"), RestoreOptions{})
		if !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, store.ErrBadArchive) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestRestoreWhereSomethingIs(t *testing.T) {
	outside := inTemp(t, folder(nil))
	for what, n := range map[string]node{
		"file": file("keep"), "link": link(outside), "dangling link": link(filepath.Join(outside, "new")), "directory": folder(nil),
	} {
		for _, a := range [][]any{fileOf("x"), linkTo("x"), dirOf(entryOf("f", fileOf("x")))} {
			dest := inTemp(t, n)
			before := modes(t, dest)
			err := Restore(bytes.NewReader(words(a...)), dest, RestoreOptions{})
			wantError(t, err, os.ErrExist, dest)
			if after := modes(t, dest); !slices.Equal(after, before) {
				t.Errorf("the %s was changed: %q", what, after)
			}
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("restored through a link: %v", entries)
	}
	err := Restore(bytes.NewReader(words(fileOf("x")...)), filepath.Join(outside, "no", "dest"), RestoreOptions{})
	wantError(t, err, os.ErrNotExist, "no")
}

func TestRestoreMaxSize(t *testing.T) {
	archive := words(dirOf(entryOf("a", fileOf("12345")), entryOf("b", linkTo("a")))...)
	for size := 1; size < len(archive); size++ {
		err := Restore(bytes.NewReader(archive), filepath.Join(tempDir(t), "dest"), RestoreOptions{MaxSize: int64(size)})
		wantError(t, err, store.ErrBadArchive, "larger than")
	}
	must(t, Restore(bytes.NewReader(archive), filepath.Join(tempDir(t), "dest"), RestoreOptions{MaxSize: int64(len(archive))}))
}

// The mask of the process plays no part, and set-group-ID directories, in which
// every new one inherits the bit, none either.
func TestRestoreUmask(t *testing.T) {
	dir := tempDir(t)
	must(t, unix.Chmod(dir, 0o2777))
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dest := filepath.Join(dir, "dest")
	must(t, Restore(bytes.NewReader(words(dirOf(entryOf("d", dirOf(entryOf("f", fileOf("x")))))...)), dest, RestoreOptions{}))
	for _, l := range modes(t, dest) {
		if !strings.Contains(l, " 40555 ") && !strings.Contains(l, " 100444 ") {
			t.Errorf("not canonical: %s", l)
		}
	}
}

// An entry can be read in part, or not at all.
func TestReader(t *testing.T) {
	archive := words(dirOf(
		entryOf("a", fileOf("0123456789")),
		entryOf("b", dirOf(entryOf("c", linkTo("x")), entryOf("d", dirOf()))),
		entryOf("e", []any{"(", "type", "regular", "executable", "", "contents", "run", ")"}),
	)...)
	want := []Entry{
		{0, "", store.KindDirectory, 0, ""},
		{1, "a", store.KindRegular, 10, ""},
		{1, "b", store.KindDirectory, 0, ""},
		{2, "c", store.KindSymlink, 0, "x"},
		{2, "d", store.KindDirectory, 0, ""},
		{1, "e", store.KindExecutable, 3, ""},
	}
	paths := []string{"", "a", "b", "b/c", "b/d", "e"}
	for _, part := range []int{0, 1, 5, 10, 11} {
		r := NewReader(bytes.NewReader(archive), 0)
		for i := 0; ; i++ {
			e, err := r.Next()
			if err == io.EOF {
				if i != len(want) {
					t.Errorf("%d entries", i)
				}
				break
			}
			must(t, err)
			if e != want[i] || r.Path() != paths[i] {
				t.Errorf("entry %d: %+v at %q, want %+v at %q", i, e, r.Path(), want[i], paths[i])
			}
			got, err := io.ReadAll(io.LimitReader(r, int64(part)))
			must(t, err)
			if int64(len(got)) != min(int64(part), e.Size) {
				t.Errorf("entry %d: read %q", i, got)
			}
		}
	}
}

// What is removed of an archive cut off is what was made of it, where the name does not
// lead by its letters alone.
func TestRestoreCutBehindLink(t *testing.T) {
	archive := dump(t, inTemp(t, sample()))
	dir := memDir(t)
	other := filepath.Join(dir, "dest")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "far", "away"), 0o755),
		os.Symlink("far/away", filepath.Join(dir, "link")),
		os.WriteFile(other, nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Restore(bytes.NewReader(archive[:len(archive)-1]), dir+"/link/../dest", RestoreOptions{}); !errors.Is(err, store.ErrBadArchive) {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "far")); len(entries) != 1 {
		t.Errorf("%v is left", entries)
	}
	if _, err := os.Lstat(other); err != nil {
		t.Error(err)
	}
}

// FuzzRestore: whatever is accepted is what Dump writes, and nothing is left
// outside of the destination.
func FuzzRestore(f *testing.F) {
	for _, n := range []node{sample(), file("x"), link("y"), folder(nil), fileMode("z", 0o755)} {
		path := filepath.Join(f.TempDir(), "seed")
		makeTree(f, path, n)
		f.Add(dump(f, path))
	}
	f.Add(words(dirOf(entryOf("a", linkTo("..")), entryOf("a", dirOf(entryOf("x", fileOf("y")))))...))
	f.Add(words(dirOf(entryOf("..", fileOf("y")))...))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir, err := os.MkdirTemp("/dev/shm", "nar-fuzz-")
		if err != nil {
			dir = t.TempDir()
		}
		defer removeTree(t, dir)
		dest := filepath.Join(dir, "dest")
		err = Restore(bytes.NewReader(archive), dest, RestoreOptions{MaxSize: 1 << 20})
		onlyDest(t, dir)
		s, hashErr := HashStream(bytes.NewReader(archive))
		if (err == nil) != (hashErr == nil) {
			t.Fatalf("restored with the error %v, hashed with %v", err, hashErr)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(dump(t, dest), archive) {
			t.Fatal("restored something else")
		}
		if got := ingest(t, dest); got.Hash != s.Hash || got.Size != s.Size || got.Kind != s.Kind {
			t.Fatalf("ingested %+v, the archive is %+v", got, s)
		}
	})
}

// FuzzRead: how the input arrives makes no difference.
func FuzzRead(f *testing.F) {
	f.Add(words(dirOf(entryOf("a", fileOf("0123456789")), entryOf("b", dirOf(entryOf("c", linkTo("x")))))...), int64(0))
	f.Add(words(fileOf("text")...), int64(100))
	f.Add(words("(", "type", "regular", "contents", u64(1<<63)), int64(0))
	f.Fuzz(func(t *testing.T, archive []byte, maxSize int64) {
		one, oneErr := readAll(NewReader(bytes.NewReader(archive), maxSize))
		two, twoErr := readAll(NewReader(iotest.OneByteReader(bytes.NewReader(archive)), maxSize))
		if !slices.Equal(one, two) || (oneErr == nil) != (twoErr == nil) {
			t.Fatalf("read %q, %v at once, but %q, %v byte by byte", one, oneErr, two, twoErr)
		}
		if oneErr != nil && (oneErr.Error() != twoErr.Error() || !errors.Is(oneErr, store.ErrBadArchive)) {
			t.Fatalf("errors %v and %v", oneErr, twoErr)
		}
	})
}

// readAll describes every entry with its contents.
func readAll(r *Reader) ([]string, error) {
	var all []string
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		text, err := io.ReadAll(r)
		all = append(all, r.Path(), string(e.Kind), e.Target, string(text))
		if err != nil {
			return all, err
		}
	}
}
