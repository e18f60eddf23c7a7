package nar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"storefs/store"
)

type toldFile struct {
	kind store.Kind
	sum  [sha256.Size]byte
}

// listener collects what a FileFunc is told.
type listener struct {
	mu    sync.Mutex
	files map[string]toldFile
}

func (l *listener) file(path string, kind store.Kind, sum [sha256.Size]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == nil {
		l.files = map[string]toldFile{}
	}
	if _, twice := l.files[path]; twice {
		kind = "told twice"
	}
	l.files[path] = toldFile{kind, sum}
}

// Whoever reads or writes a tree tells the same of its files, and the hash of
// the archive does not depend on who listens.
func TestFilesAreTold(t *testing.T) {
	want := map[string]toldFile{}
	tree := map[string]node{"void": folder(nil)}
	put := func(name, text string, kind store.Kind) {
		want[name] = toldFile{kind, sha256.Sum256([]byte(text))}
	}
	// More than one run of steps, and more than one block.
	for i := range 200 {
		text := strings.Repeat(fmt.Sprint(i), i)
		dir := fmt.Sprint("d", i%7)
		if tree[dir].dir == nil {
			tree[dir] = folder(map[string]node{})
		}
		tree[dir].dir[fmt.Sprint(i)] = file(text)
		put(dir+"/"+fmt.Sprint(i), text, store.KindRegular)
	}
	large := strings.Repeat("0123456789", 100_000)
	tree["large"] = file(large)
	put("large", large, store.KindRegular)
	tree["run"] = fileMode("#!/bin/sh\n", 0o755)
	put("run", "#!/bin/sh\n", store.KindExecutable)
	tree["empty"] = file("")
	put("empty", "", store.KindRegular)
	tree["link"] = link("run")
	put("link", "run", store.KindSymlink)
	path := inTemp(t, folder(tree))

	var ingested, hashed, restored listener
	sum, err := Ingest(t.Context(), path, IngestOptions{UID: -1, GID: -1, File: ingested.file})
	must(t, err)
	again, err := HashFiles(t.Context(), path, hashed.file)
	must(t, err)
	plain, err := HashPath(t.Context(), path)
	must(t, err)
	if plain.Hash != sum.Hash || plain.Hash != again.Hash {
		t.Errorf("hashes %v, %v, %v", sum.Hash, again.Hash, plain.Hash)
	}
	var archive bytes.Buffer
	must(t, Dump(&archive, path))
	must(t, Restore(&archive, filepath.Join(filepath.Dir(path), "restored"), RestoreOptions{File: restored.file}))
	for name, l := range map[string]*listener{"Ingest": &ingested, "HashFiles": &hashed, "Restore": &restored} {
		if !maps.Equal(l.files, want) {
			t.Errorf("%s told of %d files, want %d", name, len(l.files), len(want))
			for p, f := range l.files {
				if want[p] != f {
					t.Errorf("%q: %v, want %v", p, f, want[p])
				}
			}
		}
	}
}

// Of an object that is one file there is nothing to tell: its archive's hash
// says the same.
func TestLoneFileIsNotTold(t *testing.T) {
	for _, n := range []node{file("text"), link("text")} {
		path := inTemp(t, n)
		var l listener
		_, err := HashFiles(context.Background(), path, l.file)
		must(t, err)
		var archive bytes.Buffer
		must(t, Dump(&archive, path))
		must(t, Restore(&archive, path+"-restored", RestoreOptions{File: l.file}))
		if len(l.files) > 0 {
			t.Errorf("told of %v", l.files)
		}
	}
}
