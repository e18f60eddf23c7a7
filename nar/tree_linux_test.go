package nar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// onFirst calls do when the first block is written.
type onFirst struct{ do func() }

func (o *onFirst) Write(p []byte) (int, error) {
	if o.do != nil {
		o.do()
		o.do = nil
	}
	return len(p), nil
}

func TestChangesWhileRead(t *testing.T) {
	const large = 32 << 20 // more than is ever read ahead
	for what, change := range map[string]func(path string) error{
		"written": func(path string) error {
			f, err := os.OpenFile(filepath.Join(path, "a"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("x"), 100)
			return err
		},
		"longer":  func(path string) error { return os.Truncate(filepath.Join(path, "a"), large+1) },
		"shorter": func(path string) error { return os.Truncate(filepath.Join(path, "a"), large-1<<20) },
		"entry":   func(path string) error { return os.WriteFile(filepath.Join(path, "b"), nil, 0o644) },
	} {
		for _, c := range []*canon{nil, {-1, -1}} {
			t.Run(fmt.Sprintf("%s, canonical %v", what, c != nil), func(t *testing.T) {
				if c != nil && os.Getuid() != 0 {
					t.Skip("only root can write to canonical files")
				}
				path := inTemp(t, folder(map[string]node{"a": file(strings.Repeat("x", large))}))
				var changed error
				_, err := archive(t.Context(), path, reading{canon: c}, &onFirst{func() {
					time.Sleep(10 * time.Millisecond) // a tick of a coarse clock
					changed = change(path)
				}})
				must(t, changed)
				if !errors.Is(err, store.ErrUnfit) || !strings.Contains(err.Error(), "changed") {
					t.Errorf("read it with the error %v", err)
				}
			})
		}
	}
}

// 3,000 files over several runs, with large ones in between, give the bytes that
// a simple reader gives.
func TestReadAhead(t *testing.T) {
	path := filepath.Join(memDir(t), "tree")
	for i := range 3000 {
		sub := filepath.Join(path, fmt.Sprint(i%7), fmt.Sprint(i%61))
		must(t, os.MkdirAll(sub, 0o755))
		size := i % 300
		if i%500 == 0 {
			size = 1 << 20
		}
		must(t, os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, size), 0o644))
	}
	want := naiveDump(t, path)
	if got := dump(t, path); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes that are not the %d wanted", len(got), len(want))
	}
	s := ingest(t, path)
	if s.Hash != store.HashOf(store.SHA256, want) || s.Size != int64(len(want)) {
		t.Errorf("ingested %+v", s)
	}
}

// Links to one file are read by several goroutines at a time, each of which
// finds it canonical or makes it so.
func TestManyHardLinks(t *testing.T) {
	path := filepath.Join(memDir(t), "tree")
	must(t, os.Mkdir(path, 0o755))
	first := filepath.Join(path, "first")
	must(t, os.WriteFile(first, bytes.Repeat([]byte("x"), 100_000), 0o640))
	for i := range 500 {
		must(t, os.Link(first, filepath.Join(path, fmt.Sprint(i))))
	}
	s := ingest(t, path)
	if again := hashPath(t, path); again.Hash != s.Hash || again.Size != s.Size {
		t.Errorf("ingested %+v, then hashed %+v", s, again)
	}
}

func naiveDump(t *testing.T, path string) []byte {
	b := appendString(nil, magic)
	var node func(path string)
	put := func(ss ...string) {
		for _, s := range ss {
			b = appendString(b, s)
		}
	}
	node = func(path string) {
		put("(", "type")
		entries, err := os.ReadDir(path)
		if err != nil {
			text, err := os.ReadFile(path)
			must(t, err)
			put("regular", "contents", string(text), ")")
			return
		}
		put("directory")
		for _, e := range entries {
			put("entry", "(", "name", e.Name(), "node")
			node(filepath.Join(path, e.Name()))
			put(")")
		}
		put(")")
	}
	node(path)
	return b
}

// Depth and many directories cost few descriptors.
func TestFewDescriptors(t *testing.T) {
	if asUser(t) {
		return
	}
	const limit = 512
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: old.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()

	path := filepath.Join(memDir(t), "tree")
	for i := range 2000 {
		must(t, os.MkdirAll(filepath.Join(path, "wide", fmt.Sprint(i)), 0o755))
		must(t, os.WriteFile(filepath.Join(path, "wide", fmt.Sprint(i), "f"), []byte("x"), 0o644))
	}
	deep := deepArchive(1500)
	must(t, Restore(bytes.NewReader(deep), filepath.Join(path, "wide", "deep"), RestoreOptions{}))
	if got := dump(t, filepath.Join(path, "wide", "deep")); !bytes.Equal(got, deep) {
		t.Error("the deep tree came back as another")
	}
	s := ingest(t, path)
	if again := hashPath(t, path); again.Hash != s.Hash {
		t.Error("hashed differently")
	}
}

// deepArchive is n directories in one another.
func deepArchive(n int) []byte {
	b := appendString(nil, magic)
	for i := range n {
		b = appendString(appendString(appendString(b, "("), "type"), "directory")
		if i+1 < n {
			for _, s := range []string{"entry", "(", "name", "d", "node"} {
				b = appendString(b, s)
			}
		}
	}
	for range 2*n - 1 {
		b = appendString(b, ")")
	}
	return b
}

func TestTooDeep(t *testing.T) {
	dest := filepath.Join(memDir(t), "deep")
	err := Restore(bytes.NewReader(deepArchive(MaxDepth+1)), dest, RestoreOptions{})
	wantError(t, err, store.ErrBadArchive, "4096 directories deep")

	// What has the greatest depth allowed is restored; one more is refused.
	must(t, Restore(bytes.NewReader(deepArchive(MaxDepth)), dest, RestoreOptions{}))
	inner, outer := dest, filepath.Join(filepath.Dir(dest), "outer")
	must(t, os.Chmod(inner, 0o755))
	must(t, os.Mkdir(outer, 0o755))
	must(t, os.Rename(inner, filepath.Join(outer, "d")))
	_, err = HashPath(t.Context(), outer)
	wantError(t, err, store.ErrUnfit, "4096 directories deep")
}

func TestIngestCancelled(t *testing.T) {
	path := inTemp(t, folder(map[string]node{"a": file(strings.Repeat("x", 8<<20)), "b": file("")}))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := archive(ctx, path, reading{}, &onFirst{cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled in the midst: %v", err)
	}
	if _, err = Ingest(ctx, path, IngestOptions{UID: -1, GID: -1}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

// failing is a writer that takes so many bytes.
type failing int

func (f *failing) Write(p []byte) (int, error) {
	if *f -= failing(len(p)); *f < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestDumpWriteError(t *testing.T) {
	path := inTemp(t, folder(map[string]node{"a": file(strings.Repeat("x", 4<<20)), "b": file("x")}))
	for _, n := range []int{0, 100, 1 << 20} {
		f := failing(n)
		if err := Dump(&f, path); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
