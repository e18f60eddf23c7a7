package nar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// node is what makeTree makes; exactly one of the fields says what it is.
type node struct {
	text   *string
	mode   os.FileMode // 0 is the usual
	target string
	dir    map[string]node
}

func file(text string) node                    { return node{text: &text} }
func fileMode(text string, m os.FileMode) node { return node{text: &text, mode: m} }
func link(target string) node                  { return node{target: target} }
func folder(dir map[string]node) node          { return node{dir: dir} }

// makeTree creates n at path.
func makeTree(t testing.TB, path string, n node) {
	t.Helper()
	var err error
	switch {
	case n.text != nil:
		err = os.WriteFile(path, []byte(*n.text), 0o644)
	case n.target != "":
		err = os.Symlink(n.target, path)
	default:
		if err = os.Mkdir(path, 0o755); err == nil {
			for name, child := range n.dir {
				makeTree(t, filepath.Join(path, name), child)
			}
		}
	}
	if err == nil && n.mode != 0 {
		err = unix.Chmod(path, uint32(n.mode))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sample has everything that an archive can hold.
func sample() node {
	return folder(map[string]node{
		"empty":          file(""),
		"seven":          file("1234567"),
		"eight":          file("12345678"),
		"run":            fileMode("#!/bin/sh\n", 0o755),
		"owner-only":     fileMode("x", 0o700),
		"others-only":    fileMode("x", 0o655),
		"link":           link("run"),
		"dangling":       link("/nowhere/at all"),
		"void":           folder(nil),
		"\xff\xfe bytes": file("a name that is not UTF-8"),
		"a":              file("a"),
		"a.b":            file("sorts between a and a0"),
		"a0":             file(""),
		"B":              file("upper case before lower case"),
		"deep":           folder(map[string]node{"er": folder(map[string]node{"and": folder(map[string]node{"deeper": file("!")})})}),
	})
}

// inTemp makes n in a directory of the test's own, which is removed whatever
// modes it has then.
func inTemp(t testing.TB, n node) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "object")
	makeTree(t, path, n)
	return path
}

func hashPath(t testing.TB, path string) Summary {
	t.Helper()
	s, err := HashPath(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dump(t testing.TB, path string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Dump(&b, path); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ingest(t testing.TB, path string) Summary {
	t.Helper()
	s, err := Ingest(context.Background(), path, IngestOptions{UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// modes describes a tree as canonicalisation sees it: a line each of path, type,
// permissions, owner and time.
func modes(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%q %o %d:%d %d.%09d", strings.TrimPrefix(path, root), st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// tempDir is a test's own directory, which is removed whatever modes are in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				return os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	return dir
}

// memDir is a directory in memory where there is one: creating thousands of
// files is slow on some disks, and not what is tested.
func memDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nar-test-")
	if err != nil {
		return tempDir(t)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("sh", "-c", `chmod -R u+w "$1"; rm -rf "$1"`, "sh", dir).CombinedOutput(); err != nil {
			t.Errorf("remove %s: %v: %s", dir, err, out)
		}
	})
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that err is one line that wraps want and mentions things.
func wantError(t testing.TB, err, want error, mentions ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want one that is %q", err, want)
	}
	for _, m := range append(mentions, "") {
		if s := err.Error(); !strings.Contains(s, m) || strings.Contains(s, "\n") {
			t.Errorf("error %q, want one line that mentions %q", s, m)
		}
	}
}
