package unpackchannel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archive is one of lines: names, of directories if they end in a slash, else of files, or
// of links with " -> ", of hard links with " = ", of executables with a "*" before them, of
// contiguous files with "+", and of pipes with "|".
func archive(t testing.TB, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		h := &tar.Header{Name: line, Typeflag: tar.TypeReg, Mode: 0o444}
		if name, target, ok := strings.Cut(line, " -> "); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		} else if name, target, ok := strings.Cut(line, " = "); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if strings.HasSuffix(line, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0
		} else if name, ok := strings.CutPrefix(line, "*"); ok {
			h.Name, h.Mode = name, 0o100
		} else if name, ok := strings.CutPrefix(line, "+"); ok {
			h.Name, h.Typeflag = name, tar.TypeCont
		} else if name, ok := strings.CutPrefix(line, "|"); ok {
			h.Name, h.Typeflag = name, tar.TypeFifo
		}
		content := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont
		if content {
			h.Size = int64(len(line))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if content {
			if _, err := w.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// made is what becomes of an archive, as one has it, of files with what is in them.
func made(t *testing.T, content []byte, name string) (list []string, err error) {
	t.Helper()
	dir := t.TempDir()
	r := Request{Source: dir + "/source", Name: name, Output: dir + "/out"}
	if err := os.WriteFile(r.Source, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.make(); err != nil {
		return nil, fmt.Errorf("%s", strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	err = filepath.WalkDir(r.Output, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == r.Output {
			return err
		}
		line := strings.TrimPrefix(p, r.Output+"/")
		info, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			line += "/"
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		default:
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("%s %o: %s", line, info.Mode().Perm(), text)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list, nil
}

func TestMake(t *testing.T) {
	for name, test := range map[string]struct{ archive, want []string }{
		"tree":       {[]string{"./", "./top/", "./top/x", "./top/d/", "*./top/d/run", "top/d/link -> /etc/passwd", "top/hard = top/x"}, []string{"c/", "c/d/", "c/d/link -> /etc/passwd", "c/d/run 755: *./top/d/run", "c/hard 644: ./top/x", "c/x 644: ./top/x"}},
		"contiguous": {[]string{"+file"}, []string{"c 644: +file"}},
		"file":       {[]string{"file"}, []string{"c 644: file"}},
		"parents":    {[]string{"/a/b/c"}, []string{"c/", "c/b/", "c/b/c 644: /a/b/c"}},
		"the last":   {[]string{"a/x", "a/x -> y", "a/d/", "a/d", "a/e", "a/e/", "a/f -> /", "a/f"}, []string{"c/", "c/d 644: a/d", "c/e/", "c/f 644: a/f", "c/x -> y"}},
		"same name":  {[]string{"c/c"}, []string{"c/", "c/c 644: c/c"}},
	} {
		got, err := made(t, archive(t, test.archive...), "c")
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v\ngot  %q\nwant %q", name, err, got, test.want)
		}
	}
	for name, test := range map[string]struct {
		archive []string
		want    string
	}{
		"two":       {[]string{"a", "b"}, "channel tarball 'DIR/source' contains more than one file"},
		"none":      {nil, "channel tarball 'DIR/source' contains more than one file"},
		"up":        {[]string{"a/../b"}, `"a/../b" contains '..'`},
		"link up":   {[]string{"a/b = ../source"}, `"../source" contains '..'`},
		"through":   {[]string{"a/b -> ../..", "a/b/c"}, `"a/b/c" is below "a/b", which is no directory`},
		"link out":  {[]string{"a/b -> /etc", "a/c = a/b/passwd"}, "path escapes from parent"},
		"unknown":   {[]string{"|a"}, `"a" is of the unsupported type`},
		"the whole": {[]string{"./."}, `"./." has the name of the whole`},
		"not empty": {[]string{"a/b/c", "a/b"}, "directory not empty"},
	} {
		_, err := made(t, archive(t, test.archive...), "c")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

func TestCompressed(t *testing.T) {
	plain := archive(t, "top/x")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := made(t, zipped.Bytes(), "c"); err != nil || !slices.Equal(got, []string{"c/", "c/x 644: top/x"}) {
		t.Errorf("%q, %v", got, err)
	}
	for _, packed := range []string{bzip2Seed, xzSeed} {
		text, err := base64.StdEncoding.DecodeString(packed)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := made(t, text, "c"); err != nil || !slices.Equal(got, []string{"c/", "c/x 644: "}) {
			t.Errorf("%q, %v", got, err)
		}
	}
	for name, text := range map[string]string{"text": "text", "zip": "PK\x03\x04" + strings.Repeat("x", 600), "zstd": "\x28\xb5\x2f\xfd" + strings.Repeat("x", 600)} {
		if _, err := made(t, []byte(text), "c"); err == nil || !strings.HasSuffix(err.Error(), "it is no tar archive, or compressed by none of gzip, bzip2 and xz") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b"} {
		if _, err := made(t, plain, name); err == nil || err.Error() != fmt.Sprintf("channelName %q is no file name", name) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
