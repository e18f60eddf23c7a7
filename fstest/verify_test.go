package fstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// real is where a path is on disk.
func (l *lab) real(path string) string {
	return l.State + "/real" + strings.TrimPrefix(path, l.Store)
}

// tamper changes what is below an object on disk, and hides the traces that
// modes and times would leave.
func (l *lab) tamper(path string, change func(real string) error) {
	l.t.Helper()
	real := l.real(path)
	dir := filepath.Dir(real)
	st, err := os.Lstat(dir)
	if err != nil {
		l.t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	file, err := os.Lstat(real)
	if err == nil && file.Mode().IsRegular() {
		os.Chmod(real, 0o755)
	}
	if err := change(real); err != nil {
		l.t.Fatal(err)
	}
	one := time.Unix(1, 0)
	if err == nil && file.Mode().IsRegular() {
		os.Chmod(real, file.Mode())
		os.Chtimes(real, one, one)
	}
	os.Chmod(dir, st.Mode())
	os.Chtimes(dir, one, one)
}

func flipByte(at int64) func(string) error {
	return func(real string) error {
		f, err := os.OpenFile(real, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
		return err
	}
}

// eventually waits until f reports success.
func (l *lab) eventually(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b, _ := os.ReadFile(l.Dir + "/mount.log")
			l.t.Fatalf("not within 30 s: %s\n%s", what, b)
		}
	}
}

func readFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}

func execute(path string) (string, error) {
	b, err := exec.Command(path, "true").Output()
	return string(b), err
}

// Whatever is damaged is EIO to its reader, has its line in why, and is made
// anew; what lies beside it can be read all the time.
func TestVerifyOpen(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
def tree(name):
    return sh(name, "mkdir -p $out/bin $out/share/a; cp $tool $out/bin/true; echo small > $out/share/a/small; " +
        "dd if=/dev/zero of=$out/share/large bs=1k count=3000; ln -s a/small $out/share/link", env = {"tool": tools + "/bin/busybox"})
small = tree("small")
large = tree("large")
program = tree("program")
link = tree("link")
emptied = tree("emptied")
unrecorded = tree("unrecorded")
little = sh("little", "mkdir $out; echo hello > $out/file; touch $out/empty")
alone = sh("alone", "echo alone > $out", kind = "regular")
toplink = sh("toplink", "ln -s $to $out", env = {"to": little.out}, kind = "symlink")
`)
	large := strings.Repeat("\x00", 3000<<10)
	cases := []struct {
		target, inside string
		change         func(real string) error
		read           func(path string) (string, error)
		want           string
		whole          bool // it is compared as a whole
	}{
		{"small", "/share/a/small", flipByte(2), readFile, "small\n", false},
		{"large", "/share/large", flipByte(2999 << 10), readFile, large, false},
		{"program", "/bin/true", flipByte(100_000), execute, "", false},
		{"link", "/share/link", func(real string) error {
			os.Remove(real)
			return os.Symlink("a/other", real)
		}, os.Readlink, "a/small", false},
		{"emptied", "/share/a/small", func(real string) error { return os.Truncate(real, 0) }, readFile, "small\n", false},
		{"unrecorded", "/share/a/small", flipByte(2), readFile, "small\n", true},
		{"little", "/file", flipByte(0), readFile, "hello\n", true},
		{"alone", "", flipByte(0), readFile, "alone\n", true},
		{"toplink", "", func(real string) error {
			os.Remove(real)
			return os.Symlink("/nowhere", real)
		}, os.Readlink, "", true},
	}
	paths := map[string]string{}
	for i, c := range cases {
		paths[c.target] = l.ok("build", file+":"+c.target)[0]
		if c.target == "toplink" {
			cases[i].want = paths["little"]
		}
		l.tamper(paths[c.target]+c.inside, c.change)
	}
	if err := os.Remove(l.State + "/hashes/" + filepath.Base(paths["unrecorded"])); err != nil {
		t.Fatal("no hashes were recorded:", err)
	}
	if _, err := os.Stat(l.State + "/hashes/" + filepath.Base(paths["little"])); err == nil {
		t.Error("hashes were recorded for an object that is compared as a whole")
	}

	// Without verification, what is there is read as it is.
	l.serve()
	if b, err := readFile(paths["alone"]); err != nil || b == "alone\n" || len(b) != 6 {
		t.Errorf("unverified: %q, %v", b, err)
	}
	l.stop()
	l.serve("--verify=open")

	for _, c := range cases {
		t.Run(c.target, func(t *testing.T) {
			p := paths[c.target]
			got, err := c.read(p + c.inside)
			// The kernel asks once more for what it could not read ahead, and it may have
			// been repaired by then. ESTALE is how it learns that of an object that is one
			// file, when it looks where that ends.
			if errno(err) != syscall.EIO && (got != c.want || err != nil && errno(err) != syscall.ESTALE) {
				t.Fatalf("the first read: %.20q, %v; want EIO, or what is right", got, err)
			}
			if !c.whole {
				if b, err := os.ReadFile(p + "/bin/true"); c.inside != "/bin/true" && (err != nil || len(b) < 100_000) {
					t.Errorf("what is not damaged: %d bytes, %v", len(b), err)
				}
			}
			why := strings.Join(l.ok("why", p), "\n")
			if where := strings.TrimPrefix(c.inside, "/"); !strings.Contains(why, "damaged: ") || !c.whole && !strings.Contains(why, "damaged: "+where+": ") {
				t.Errorf("why: %s", why)
			}
			l.eventually("repaired", func() bool {
				return strings.Contains(strings.Join(l.ok("why", p), "\n"), "repaired: ")
			})
			l.eventually("readable again", func() bool {
				got, err = c.read(p + c.inside)
				return err == nil
			})
			if got != c.want {
				t.Errorf("after the repair: %.40q, want %.40q", got, c.want)
			}
		})
	}
	if out := l.ok("verify", "--check-contents"); len(out) != 1 || out[0] != "" {
		t.Errorf("verify: %q", out)
	}
}

// A file or directory that is missing, or may not be executed any more, is damage for
// whoever looks for it or lists where it was, and nobody is told that it does not exist.
func TestVerifyOpenMissing(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
def tree(name):
    return sh(name, "mkdir -p $out/bin $out/share/a $out/share/void; cp $tool $out/bin/true; echo small > $out/share/a/small; " +
        "echo beside > $out/share/a/beside; echo other > $out/share/other; dd if=/dev/zero of=$out/large bs=1k count=300", env = {"tool": tools + "/bin/busybox"})
file = tree("file")
listed = tree("listed")
directory = tree("directory")
program = tree("program")
object = tree("object")
little = sh("little", "mkdir $out; echo hello > $out/file; touch $out/empty")
alone = sh("alone", "echo '#!/bin/true' > $out; chmod +x $out", kind = "executable")
`)
	list := func(path string) (string, error) {
		entries, err := os.ReadDir(path)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	}
	unexecutable := func(real string) error { return os.Chmod(real, 0o444) }
	// Who removes everything may write in all of it first.
	remove := func(real string) error {
		return errors.Join(exec.Command("chmod", "-R", "u+w", real).Run(), os.RemoveAll(real))
	}
	cases := []struct {
		target, inside string
		change         func(real string) error
		looks          string
		look           func(path string) (string, error)
		want           string
		right          string // what is not damaged, all the time
	}{
		{"file", "/share/a/small", remove, "/share/a/small", readFile, "small\n", "/share/a/beside"},
		{"listed", "/share/a/small", remove, "/share/a", list, "beside small", "/share/a/beside"},
		{"directory", "/share/a", remove, "/share/a/small", readFile, "small\n", "/share/other"},
		{"program", "/bin/true", unexecutable, "/bin/true", execute, "", "/share/other"},
		{"object", "", remove, "/share/a/small", readFile, "small\n", ""},
		{"little", "/file", remove, "/file", readFile, "hello\n", ""},
		{"alone", "", unexecutable, "", execute, "", ""},
	}
	paths := map[string]string{}
	for _, c := range cases {
		paths[c.target] = l.ok("build", file+":"+c.target)[0]
		real := l.real(paths[c.target] + c.inside)
		dir := filepath.Dir(real)
		st, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(dir, 0o755), c.change(real), os.Chmod(dir, st.Mode()), os.Chtimes(dir, st.ModTime(), st.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	l.serve("--verify=open")
	for _, c := range cases {
		t.Run(c.target, func(t *testing.T) {
			p := paths[c.target]
			got, err := c.look(p + c.looks)
			if errno(err) != syscall.EIO && (got != c.want || err != nil) {
				t.Fatalf("at first: %.40q, %v; want EIO, or what is right", got, err)
			}
			if c.right != "" {
				if text, err := readFile(p + c.right); err != nil || text == "" {
					t.Errorf("what is not damaged: %q, %v", text, err)
				}
			}
			if why := strings.Join(l.ok("why", p), "\n"); !strings.Contains(why, "damaged: ") {
				t.Errorf("why: %s", why)
			}
			l.eventually("as it should be", func() bool {
				got, err := c.look(p + c.looks)
				if err == nil && got != c.want || err != nil && errno(err) != syscall.EIO && errno(err) != syscall.ESTALE {
					t.Fatalf("%.40q, %v; want EIO, or what is right", got, err)
				}
				return err == nil
			})
		})
	}
	if out := l.ok("verify", "--check-contents"); len(out) != 1 || out[0] != "" {
		t.Errorf("verify: %q", out)
	}
}

// A source can be made by nothing; and who reads it again and again does not
// have its repair tried again and again.
func TestVerifyOpenBeyondRepair(t *testing.T) {
	l := newLab(t)
	l.write("source/file", "text\n")
	p := l.ok("add", "source")[0]
	l.tamper(p+"/file", flipByte(0))
	l.serve("--verify=open")
	for range 20 {
		if b, err := os.ReadFile(p + "/file"); errno(err) != syscall.EIO {
			t.Fatalf("%q, %v; want EIO", b, err)
		}
	}
	l.eventually("why says that it was not repaired", func() bool {
		return strings.Contains(strings.Join(l.ok("why", p), "\n"), "not repaired: ")
	})
	log, err := os.ReadFile(l.Dir + "/mount.log")
	if n := bytes.Count(log, []byte("damaged: ")); err != nil || n != 1 {
		t.Errorf("told of %d times: %s", n, log)
	}
	var why []struct {
		State  string
		Damage struct{ Unrepaired string }
	}
	text := strings.Join(l.ok("why", "--json", p), "\n")
	if err := json.Unmarshal([]byte(text), &why); err != nil || why[0].State != "damaged" || why[0].Damage.Unrepaired == "" {
		t.Errorf("why --json: %v: %s", err, text)
	}
}

// What was read is not read again: not by the next mount either, unless the
// machine was started anew.
func TestVerifyOpenOnceABoot(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `default = sh("tree", "mkdir $out; dd if=/dev/zero of=$out/large bs=1k count=1000; for i in $(seq 20); do echo $i > $out/$i; done")`)
	p := l.ok("build", file)[0]
	l.serve("--verify=open")
	for i := range 20 {
		if _, err := os.ReadFile(fmt.Sprintf("%s/%d", p, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	memory := l.State + "/verified"
	before, err := os.Stat(memory)
	if err != nil {
		t.Fatal(err)
	}
	l.tamper(p+"/7", flipByte(0))
	l.serve("--verify=open")
	if b, err := os.ReadFile(p + "/7"); err != nil || string(b) == "7\n" {
		t.Errorf("%q, %v: it was compared again in the same boot", b, err)
	}
	l.stop()
	if after, err := os.Stat(memory); err != nil || after.Size() != before.Size() {
		t.Errorf("the memory grew from %d to %d bytes", before.Size(), after.Size())
	}
	// Another boot.
	b, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(memory, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l.serve("--verify=open")
	if b, err := os.ReadFile(p + "/7"); errno(err) != syscall.EIO {
		t.Errorf("%q, %v; want EIO", b, err)
	}
	if b, err := os.ReadFile(p + "/8"); err != nil || string(b) != "8\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// However the contents reach the kernel, what is damaged does not: by
// passthrough there is no READ that could be answered with an error.
func TestVerifyOpenByAllWays(t *testing.T) {
	for _, data := range []string{"noopen", "passthrough", "cached"} {
		t.Run(data, func(t *testing.T) {
			if data == "passthrough" && os.Geteuid() != 0 {
				t.Skip("passthrough needs root")
			}
			l := newLab(t)
			file := l.star("a.star", `
def tree(name):
	return sh(name, "mkdir $out; dd if=/dev/zero of=$out/large bs=1k count=1000; echo small > $out/small; echo other > $out/other")
default = [tree("one"), tree("two")]
`)
			built := l.ok("build", file)
			for _, p := range built {
				l.tamper(p+"/large", flipByte(500_000))
				l.tamper(p+"/small", flipByte(0))
			}
			l.serve("--verify=open", "--data="+data)
			right := map[string][]byte{"large": make([]byte, 1000<<10), "small": []byte("small\n"), "other": []byte("other\n")}
			for i, p := range built {
				names := []string{"small", "large"}
				if i == 1 {
					slices.Reverse(names)
				}
				for _, name := range names {
					// It is being repaired from the first READ on, and may be already.
					if b, err := os.ReadFile(p + "/" + name); errno(err) != syscall.EIO && (err != nil || !bytes.Equal(b, right[name])) {
						t.Errorf("%s: %d bytes, %v; want EIO, or what is right", name, len(b), err)
					}
				}
				if b, err := os.ReadFile(p + "/other"); err != nil || !bytes.Equal(b, right["other"]) {
					t.Errorf("what is not damaged: %q, %v", b, err)
				}
				l.eventually("repaired", func() bool {
					b, err := os.ReadFile(p + "/" + names[0])
					return err == nil && bytes.Equal(b, right[names[0]])
				})
				if b, err := os.ReadFile(p + "/" + names[1]); err != nil || !bytes.Equal(b, right[names[1]]) {
					t.Errorf("after the repair: %s: %d bytes, %v", names[1], len(b), err)
				}
				l.eventually("why says so", func() bool {
					return strings.Contains(strings.Join(l.ok("why", p), "\n"), "repaired: ")
				})
			}
		})
	}
}
