package unpackchannel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What comes over a network is refused or unpacked, and then it is of files, directories
// and links without a special mode; nothing beside the output is made, changed or removed.
func FuzzUnpack(f *testing.F) {
	seed := archive(f, "./", "top/", "top/d/x", "*top/run", "top/link -> ../..", "top/hard = top/run", "+top/run", "a/../b")
	f.Add(seed)
	f.Add(archive(f, "top/a -> /", "top/a/b", "top/c = top/a"))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(archive(f, "top/x"))
	_ = z.Close()
	f.Add(zipped.Bytes())
	for _, packed := range []string{bzip2Seed, xzSeed} {
		text, err := base64.StdEncoding.DecodeString(packed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if large(content) {
			return
		}
		dir := t.TempDir()
		r := Request{Source: dir + "/source", Name: "c", Output: dir + "/out"}
		if err := os.WriteFile(r.Source, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := r.make()
		beside, readErr := os.ReadDir(dir)
		if readErr != nil {
			t.Fatal(readErr)
		}
		text, readErr := os.ReadFile(r.Source)
		if len(beside) != 2 || readErr != nil || !bytes.Equal(text, content) {
			t.Fatalf("%v are there, and the source: %v", beside, readErr)
		}
		if err != nil {
			return
		}
		entries, err := os.ReadDir(r.Output)
		if err != nil || len(entries) != 1 || entries[0].Name() != "c" {
			t.Fatalf("%v, %v", entries, err)
		}
		err = filepath.WalkDir(r.Output, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			switch m := info.Mode(); m {
			case fs.ModeDir | 0o755, 0o755, 0o644:
			default:
				if m.Type() != fs.ModeSymlink {
					t.Errorf("%s is %v", strings.TrimPrefix(p, r.Output), m)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// large reports whether an archive has more in it than is worth a try: a few bytes can be
// as many files, or as large a one, as there is room for.
func large(content []byte) bool {
	const enough = 1 << 20
	plain, err := decompress(bufio.NewReader(bytes.NewReader(content)))
	if err != nil {
		return false
	}
	limited := &io.LimitedReader{R: plain, N: enough}
	archive := tar.NewReader(limited)
	for size := int64(0); ; {
		h, err := archive.Next()
		if err != nil {
			return limited.N == 0
		}
		if size += h.Size; size > enough || size < 0 {
			return true
		}
	}
}

// An archive of the empty file top/x, by two programs that package compress has no
// writer for.
const (
	bzip2Seed = "QlpoOTFBWSZTWeZn2DkAAClbgMiAQADVgAAIYADeQACIIABURAADRptBJJpPU0aPUaaGY+BnEr4vqWIhJgbG7idhE0RTa01rLuZJEVQBZxMLuSKcKEhzM+wcgA=="
	xzSeed    = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4AX/ADRdADobymMoFMYCXWq6cG4VJvWb3y42Z3eKkZIx0QrzIfOdk5vSdGn2iB63NlF1hDHBnnkevAAAPCdrYoqNO4MAAVCADAAAAADT6zSxxGf7AgAAAAAEWVo="
)
