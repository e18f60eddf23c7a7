package fs_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"storefs/fs"
)

// session runs one script after the other in one process, which keeps its working
// directory and what it has open.
func session(t *testing.T, dir string) (do func(script string) string) {
	t.Helper()
	cmd := exec.Command("bash")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "S="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { in.Close(); cmd.Wait(); r.Close() })
	out := bufio.NewReader(r)
	return func(script string) string {
		t.Helper()
		if _, err := io.WriteString(in, "{ "+script+"; } 2>&1; echo; echo '#'\n"); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for {
			line, err := out.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %q, %v", script, text.String()+line, err)
			}
			if line == "#\n" {
				return strings.TrimSuffix(strings.TrimSuffix(text.String(), "\n"), "\n")
			}
			text.WriteString(line)
		}
	}
}

// replaced is a directory with the given files that replaces another one.
func replaced(t *testing.T, s *fakeStore, server *fs.Server, name string, files map[string]string) {
	t.Helper()
	make := func(p string) error {
		err := os.MkdirAll(p+"/share", 0o755)
		for f, text := range files {
			err = errors.Join(err, os.WriteFile(p+"/share/"+f, []byte(text), 0o644))
		}
		return err
	}
	if server != nil {
		replace(t, s, server, name, make)
	} else if err := s.put(name, make); err != nil {
		t.Fatal(err)
	}
}

// replace puts another object into the place of a damaged one.
func replace(t *testing.T, s *fakeStore, server *fs.Server, name string, make func(string) error) {
	t.Helper()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.Rename(filepath.Join(s.real, name), old); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(old)
	if err := s.put(name, make); err != nil {
		t.Fatal(err)
	}
	server.Replaced(name)
	<-server.Told()
}

// What the kernel knows in a size that was wrong is not given another one while somebody
// has the old file open: that would be cut off where the new one ends.
func TestReplacedSize(t *testing.T) {
	for _, how := range []string{`ls -l`, `stat --cached=never cut`, `stat --cached=never - <&5`} {
		t.Run(how, func(t *testing.T) {
			eachData(t, func(t *testing.T, data fs.Data) {
				s := newFakeStore(t)
				dir, server := mount(t, s, func(o *fs.Options) { o.Data = data })
				n := name(1, "x")
				replaced(t, s, nil, n, map[string]string{"cut": "longer\n", "other": "other\n"})
				do := session(t, dir)
				do(`cd $S/` + n + `/share; exec 5<cut`)
				replaced(t, s, server, n, map[string]string{"cut": "so\n", "other": "other\n"})
				do(how)
				old := do(`cat <&5`)
				if data == fs.DataNoOpen {
					if !strings.Contains(old, "Stale file handle") {
						t.Errorf("the old file is %q", old)
					}
				} else if old != "longer" {
					t.Errorf("the old file is %q", old)
				}
				if got := do(`ls -l; cat cut`); !strings.HasSuffix(got, "\nso") {
					t.Errorf("opened in the old directory: %q", got)
				}
				if got := do(`cat $S/` + n + `/share/cut other`); got != "so\nother" {
					t.Errorf("looked up anew: %q", got)
				}
			})
		})
	}
}

// An object may be damaged, and replaced, again: who is at work in the first one goes on in
// the third, also if nobody has looked up the second.
func TestReplacedTwice(t *testing.T) {
	for _, lookUp := range []string{"true", "stat $S/$n"} {
		t.Run(lookUp, func(t *testing.T) {
			s := newFakeStore(t)
			dir, server := mount(t, s, nil)
			n := name(1, "x")
			files := func(c string) map[string]string {
				return map[string]string{"large": strings.Repeat(c, 4<<20), "other": "other\n"}
			}
			replaced(t, s, nil, n, files("a"))
			do := session(t, dir)
			do(`n=` + n + `; cd $S/$n/share; exec 5<large`)
			replaced(t, s, server, n, files("b"))
			if got := do(`head -c 4096 <&5 | tail -c 1; cat other`); got != "bother" {
				t.Errorf("replaced once: %q", got)
			}
			do(lookUp)
			replaced(t, s, server, n, files("c"))
			if got := do(`tail -c 1 <&5; ls; cat other`); got != "clarge\nother\nother" {
				t.Errorf("replaced twice: %q", got)
			}
		})
	}
}

// What the kernel knows of sizes the server before has told it: what is open since then is
// not cut off either, and goes on where the kernel has asked again.
func TestReplacedAfterTakeOver(t *testing.T) {
	needFuse(t)
	s := newFakeStore(t)
	dir := mountDir(t)
	server, held := serveHeld(t, dir, s.real, fs.DataNoOpen, nil)
	n := name(1, "quick")
	do := session(t, dir)
	do(`cd $S/` + n + `; exec 5<share/doc 6<bin/hello`)
	server.Process.Kill()
	server.Wait()
	if err := s.refresh(); err != nil {
		t.Fatal(err)
	}
	last := takeOver(t, dir, s, fs.DataNoOpen, held)
	do(`stat --cached=never - <&6`)
	replace(t, s, last, n, func(p string) error {
		return errors.Join(tree(p), script("echo other")(p+"/bin/hello"), regular("longer\n")(p+"/share/doc"))
	})
	if got := do(`cat <&5`); !strings.Contains(got, "Stale file handle") {
		t.Errorf("the one whose size was wrong is %q", got)
	}
	if got := do(`tail -n 1 <&6`); got != "echo other" {
		t.Errorf("the other one goes on with %q", got)
	}
	must(t, dir, `cat $S/$1/share/doc`, "longer", n)
	do(`cd /; exec 5<&- 6<&-`)
	if err := last.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
}

// heldVerifier finds nothing damaged, and takes its time for that.
type heldVerifier struct{ asked, free chan struct{} }

func (v heldVerifier) Verify(context.Context, string, string) error {
	v.asked <- struct{}{}
	<-v.free
	return nil
}

// A file without bytes that is replaced while it is compared is not shown as empty.
func TestEmptyIsReplaced(t *testing.T) {
	for _, inside := range []string{"", "/share/file"} {
		t.Run("at"+inside, func(t *testing.T) {
			s := newFakeStore(t)
			v := heldVerifier{make(chan struct{}, 10), make(chan struct{})}
			dir, server := mount(t, s, func(o *fs.Options) { o.Verifier = v })
			n := name(1, "x")
			put := func(text string) {
				t.Helper()
				if inside != "" {
					replaced(t, s, server, n, map[string]string{"file": text})
					return
				}
				if err := errors.Join(os.RemoveAll(filepath.Join(s.real, n)), s.put(n, regular(text))); err != nil {
					t.Fatal(err)
				}
				server.Replaced(n)
				<-server.Told()
			}
			if err := os.Mkdir(filepath.Join(s.real, n), 0o755); err != nil {
				t.Fatal(err)
			}
			put("")
			_, wait := spawn(t, dir, `bash -c 'test "$(cat $S/$1)" = text' bash "$1"`, n+inside)
			<-v.asked
			put("text\n")
			close(v.free)
			if err := wait(); err != nil {
				t.Errorf("who waited: %v", err)
			}
			must(t, dir, `cat $S/$1`, "text", n+inside)
		})
	}
}
