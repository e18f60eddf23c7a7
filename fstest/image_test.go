package fstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A container whose image has a state directory with store objects has them on a lower layer
// of an overlay, where no directory can be moved: they are deleted, and repaired, and what was
// left is swept, as elsewhere.
func TestStateFromImage(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test mounts an overlay, which needs root")
	}
	l := newLab(t)
	file := l.star("a.star", `
deep = "; ".join(["mkdir n; cd n" for _ in range(70)]) # deeper than what is removed with an open file for each level
one = sh("one", "mkdir -p $out/d; echo one > $out/d/text; cd $out; " + deep)
two = sh("two", "mkdir $out; echo two > $out/text")
three = sh("three", "mkdir $out; echo three > $out/text")
default = [one, two, three]`)
	outs := l.ok("build", file)
	l.write("state/real/leftover/file", "not valid")
	layers := l.Dir + "/layers"
	if err := os.Mkdir(layers, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", layers, "tmpfs", 0, ""); err != nil {
		missing(t, "a tmpfs cannot be mounted: "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(layers, unix.MNT_DETACH) })
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(layers+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", l.State, "overlay", 0, "redirect_dir=off,lowerdir="+l.State+",upperdir="+layers+"/upper,workdir="+layers+"/work"); err != nil {
		missing(t, "an overlay cannot be mounted: "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(l.State, unix.MNT_DETACH) })

	l.serve()
	if got := l.inShell(`cat $STORE/*-one/d/text $STORE/*-two/text`); got.stdout != "one\ntwo\n" {
		t.Fatalf("%q %s", got.stdout, got.stderr)
	}
	l.ok("delete", outs[0])
	if _, err := os.Stat(l.real(outs[0])); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
	if got := l.inShell(`cat ` + outs[0] + `/d/text`); got.stdout != "one\n" {
		t.Errorf("made again: %q %s", got.stdout, got.stderr)
	}
	// Of wrong contents, and of the right ones in another form.
	for _, err := range []error{
		os.WriteFile(l.real(outs[1])+"/text", []byte("bad"), 0),
		os.Chmod(l.real(outs[2])+"/text", 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l.ok("verify", "--check-contents", "--repair")
	l.ok("verify", "--check-contents")
	if got := l.inShell(`cat $STORE/*-two/text $STORE/*-three/text`); got.stdout != "two\nthree\n" {
		t.Errorf("repaired: %q %s", got.stdout, got.stderr)
	}
	l.stop()
	left, err := filepath.Glob(l.State + "/real/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range left {
		if strings.HasSuffix(p, "leftover") || strings.HasSuffix(p, ".new") {
			t.Errorf("left: %s", p)
		}
	}
}
