package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"storefs/store"
)

// nix is a real Nix with a store and state of its own.
type nix struct {
	t     *testing.T
	store store.Dir
	state string
}

func newNix(t *testing.T) *nix {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("needs Nix (Debian: nix-bin): %v", err)
	}
	n := &nix{t: t, store: store.Dir(filepath.Join(tempDir(t), "store"))}
	n.reset()
	return n
}

// reset empties the store.
func (n *nix) reset() {
	n.t.Helper()
	n.state = n.t.TempDir()
	removeTree(n.t, string(n.store))
	err := errors.Join(
		os.Mkdir(string(n.store), 0o755),
		os.WriteFile(filepath.Join(n.state, "nix.conf"), []byte("build-users-group =\nsubstituters =\nsystem = x86_64-linux\nsandbox = false\n"), 0o644))
	if err != nil {
		n.t.Fatal(err)
	}
}

// run returns what the program writes to its standard output.
func (n *nix) run(stdin []byte, name string, args ...string) []byte {
	n.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "NIX_STORE_DIR="+string(n.store), "NIX_STATE_DIR="+n.state, "NIX_LOG_DIR="+n.state,
		"NIX_CONF_DIR="+n.state, "HOME="+n.state, "NIX_REMOTE=")
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}

func (n *nix) lines(name string, args ...string) []string {
	n.t.Helper()
	return strings.Fields(string(n.run(nil, name, args...)))
}

func TestDumpAsNix(t *testing.T) {
	n := newNix(t)
	for name, c := range map[string]node{
		"file":       file("hello\n"),
		"empty file": file(""),
		"executable": fileMode("x", 0o755),
		"link":       link("somewhere"),
		"empty":      folder(nil),
		"tree":       sample(),
	} {
		t.Run(name, func(t *testing.T) {
			path := inTemp(t, c)
			want := n.run(nil, "nix-store", "--dump", path)
			if got := dump(t, path); !bytes.Equal(got, want) {
				t.Fatalf("not the bytes that nix-store --dump writes:\n%q\nwant\n%q", got, want)
			}
			base32 := n.lines("nix-hash", "--type", "sha256", "--base32", path)[0]
			s := hashPath(t, path)
			if s.Hash.Base32() != base32 || s.Size != int64(len(want)) {
				t.Fatalf("hash %s, %d bytes; want %s, %d", s.Hash.Base32(), s.Size, base32, len(want))
			}

			restored := filepath.Join(tempDir(t), "restored")
			if err := Restore(bytes.NewReader(want), restored, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			if again := n.run(nil, "nix-store", "--dump", restored); !bytes.Equal(again, want) {
				t.Fatal("restored something else")
			}
			byNix := filepath.Join(tempDir(t), "by-nix")
			n.run(want, "nix-store", "--restore", byNix)
			if !bytes.Equal(dump(t, byNix), want) {
				t.Fatal("dumped something else of what Nix restored")
			}
		})
	}
}

func TestHashAsNix(t *testing.T) {
	n := newNix(t)
	path := inTemp(t, file("hello\n"))
	for _, algo := range []store.Algo{store.MD5, store.SHA1, store.SHA256, store.SHA512} {
		for _, recursive := range []bool{false, true} {
			args := []string{"--type", string(algo), path}
			if !recursive {
				args = append(args, "--flat")
			}
			want := n.lines("nix-hash", args...)[0]
			got, err := HashAs(t.Context(), path, algo, recursive)
			if err != nil || got.Base16() != want {
				t.Errorf("%s, recursive %v: %s, %v; want %s", algo, recursive, got.Base16(), err, want)
			}
		}
	}
	for _, bad := range []node{folder(nil), link(path)} {
		if _, err := HashAs(t.Context(), inTemp(t, bad), store.SHA256, false); !errors.Is(err, store.ErrUnfit) {
			t.Errorf("the contents of what is no file: %v", err)
		}
	}
}

// exportedExpr has a text, a source tree, a derivation and two outputs, one of
// which refers to the other and to itself.
const exportedExpr = `
derivation {
  name = "hello";
  system = "x86_64-linux";
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  outputs = [ "out" "doc" ];
  args = [ "-c" "mkdir $out; echo $doc $out $text > $out/refs; ln -s $doc $out/doc; echo doc > $doc" ];
  text = builtins.toFile "text" "hello";
  src = SRC;
}`

func TestExportAsNix(t *testing.T) {
	n := newNix(t)
	expr := strings.ReplaceAll(exportedExpr, "SRC", inTemp(t, sample()))
	drv := n.lines("nix-instantiate", "-E", expr)[0]
	n.run(nil, "nix-store", "-r", drv)
	paths := n.lines("nix-store", "-q", "--requisites", "--include-outputs", drv)
	stream := n.run(nil, "nix-store", append([]string{"--export"}, paths...)...)

	x := NewExportReader(bytes.NewReader(stream), n.store)
	var rewritten bytes.Buffer
	w := NewExportWriter(&rewritten)
	var seen []string
	derivers := 0
	for {
		r, err := x.Next(0)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(tempDir(t), "member")
		if err := Restore(r, dest, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		m, err := x.Trailer()
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, string(m.Path))

		candidates := make([]store.Path, len(paths))
		for i, p := range paths {
			candidates[i] = store.Path(p)
		}
		s, err := Ingest(t.Context(), dest, IngestOptions{UID: -1, GID: -1, Candidates: NewCandidates(candidates)})
		if err != nil {
			t.Fatal(err)
		}
		if want := n.lines("nix-store", "-q", "--hash", string(m.Path))[0]; s.Hash.String() != want {
			t.Errorf("%s: hash %s, want %s", m.Path, s.Hash, want)
		}
		if want := n.lines("nix-store", "-q", "--size", string(m.Path))[0]; want != strconv.FormatInt(s.Size, 10) {
			t.Errorf("%s: size %d, want %s", m.Path, s.Size, want)
		}
		// A derivation names its outputs without referring to them.
		if !m.Path.IsDerivation() && !slices.Equal(s.References, m.References) {
			t.Errorf("%s: references %q, the stream has %q", m.Path, s.References, m.References)
		}
		if want := n.lines("nix-store", "-q", "--references", string(m.Path)); strings.Join(sorted(want), " ") != strings.Trim(fmt.Sprint(m.References), "[]") {
			t.Errorf("%s: references %q, want %q", m.Path, m.References, want)
		}
		if m.Deriver != "" {
			derivers++
			if string(m.Deriver) != drv {
				t.Errorf("%s: deriver %s, want %s", m.Path, m.Deriver, drv)
			}
		}
		if err := w.Add(m, func(w io.Writer) error { return Dump(w, dest) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sorted(seen), sorted(paths)) {
		t.Errorf("members %q, want %q", seen, paths)
	}
	if derivers != 2 {
		t.Errorf("%d members have a deriver, want the 2 outputs", derivers)
	}
	if !bytes.Equal(rewritten.Bytes(), stream) {
		t.Error("the stream, written again, is not the same")
	}

	n.reset()
	if got := strings.Fields(string(n.run(rewritten.Bytes(), "nix-store", "--import"))); !slices.Equal(sorted(got), sorted(paths)) {
		t.Errorf("Nix imported %q, want %q", got, paths)
	}
	n.run(nil, "nix-store", "--verify", "--check-contents")
}

// What Ingest leaves is what Nix calls canonical: it verifies, and is neither
// rewritten nor renamed when it is added.
func TestIngestAsNix(t *testing.T) {
	n := newNix(t)
	path := inTemp(t, sample())
	added := n.lines("nix-store", "--add", path)[0]
	ingest(t, path)
	if got, want := modes(t, path), modes(t, added); !slices.Equal(got, want) {
		t.Errorf("canonical form\n%s\nwant that of Nix\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func sorted(ss []string) []string {
	ss = slices.Clone(ss)
	slices.Sort(ss)
	return ss
}
