package nar

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nix runs a program of a real Nix with state of its own.
func nix(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("needs Nix (Debian: nix-bin): %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nix.conf"), []byte("build-users-group =\nsubstituters =\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "NIX_STATE_DIR="+dir, "NIX_LOG_DIR="+dir, "NIX_CONF_DIR="+dir, "HOME="+dir, "NIX_REMOTE=")
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}

func TestDumpAsNix(t *testing.T) {
	for name, n := range map[string]node{
		"file":       file("hello\n"),
		"empty file": file(""),
		"executable": fileMode("x", 0o755),
		"link":       link("somewhere"),
		"empty":      folder(nil),
		"tree":       sample(),
	} {
		t.Run(name, func(t *testing.T) {
			path := inTemp(t, n)
			want := nix(t, nil, "nix-store", "--dump", path)
			var got bytes.Buffer
			if err := Dump(&got, path); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Fatalf("not the bytes that nix-store --dump writes:\n%q\nwant\n%q", got.Bytes(), want)
			}
			base32 := strings.TrimSpace(string(nix(t, nil, "nix-hash", "--type", "sha256", "--base32", path)))
			s := hashPath(t, path)
			if s.Hash.Base32() != base32 || s.Size != int64(len(want)) {
				t.Fatalf("hash %s, %d bytes; want %s, %d", s.Hash.Base32(), s.Size, base32, len(want))
			}

			restored := filepath.Join(t.TempDir(), "restored")
			if err := Restore(bytes.NewReader(want), restored, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			if again := nix(t, nil, "nix-store", "--dump", restored); !bytes.Equal(again, want) {
				t.Fatal("restored something else")
			}
			byNix := filepath.Join(t.TempDir(), "by-nix")
			nix(t, got.Bytes(), "nix-store", "--restore", byNix)
			if again := hashPath(t, byNix); again.Hash != s.Hash || again.Kind != s.Kind {
				t.Fatalf("Nix restored something else: %+v, want %+v", again, s)
			}
		})
	}
}
