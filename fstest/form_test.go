package fstest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Who reads everything learns of files that contain what they should and have another mode,
// time, attribute or link, also of sources, which nobody can make anew; and they are put right for
// whoever has seen them so in the mount, who may go on reading.
func TestVerifyForms(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
default = sh("tree", "mkdir -p $out/bin; echo hello > $out/file; cp $tool $out/bin/true; ln $out/file $out/same; ln $out/file $dev; dd if=/dev/zero of=$out/large bs=1k count=300",
	outputs = ["out", "dev"], kinds = {"dev": "regular"}, env = {"tool": tools + "/bin/busybox"})
`)
	l.serve()
	tree := l.ok("build", file)[0]
	source := l.ok("add", l.write("sources/source", "source\n"))[0]
	if out := l.ok("verify", "--check-contents"); len(out) != 1 || out[0] != "" {
		t.Errorf("of what is as it should be: %q", out)
	}
	if err := os.Chmod(l.real(tree+"/file"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(l.real(tree+"/bin/true"), time.Unix(9, 0), time.Unix(9, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(l.real(source), l.Dir+"/outside"); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(l.real(tree+"/large"), l.Dir+"/large"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		source + `: 1 of its 2 links is not in the store`,
		tree + `: "bin/true": its time is 1970-01-01 00:00:09 UTC, not 1970-01-01 00:00:01 UTC; "file": its mode is 0644, not 0444; "same": its mode is 0644, not 0444`,
		tree + `: "large": 1 of its 2 links is not in the store`,
	}
	dev := l.ok("query", "outputs", l.ok("query", "deriver", tree)[0])
	for _, p := range dev {
		if p != tree {
			want = append(want, p+": its mode is 0644, not 0444") // the same file
		}
	}
	slices.Sort(want)
	r := l.storefs("verify", "--check-contents")
	got := strings.Split(strings.TrimSpace(r.stdout), "\n")
	slices.Sort(got)
	if r.status != 1 || !slices.Equal(got, want) {
		t.Errorf("status %d:\n%s\nwant\n%s", r.status, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if why := strings.Join(l.ok("why", source), "\n"); !strings.Contains(why, "its 2 links is not in the store") {
		t.Errorf("why: %s", why)
	}

	open, err := os.Open(tree + "/large")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := os.Stat(tree + "/file"); err != nil {
		t.Fatal(err)
	}
	r = l.storefs("verify", "--check-contents", "--repair")
	if n := strings.Count(r.stdout, " (repaired)\n"); r.status != 0 || n < 3 {
		t.Errorf("status %d, %d repaired: %s%s", r.status, n, r.stdout, r.stderr)
	}
	if out := l.ok("verify", "--check-contents"); len(out) != 1 || out[0] != "" {
		t.Errorf("after the repair: %q", out)
	}
	for name, mode := range map[string]uint32{"file": 0o444, "same": 0o444, "bin/true": 0o555, "bin": 0o555, "": 0o555} {
		var st unix.Stat_t
		if err := unix.Stat(tree+"/"+name, &st); err != nil || st.Mode&0o7777 != mode || st.Mtim.Sec != 1 {
			t.Errorf("%q: mode %o, time %d, %v", name, st.Mode, st.Mtim.Sec, err)
		}
	}
	if b, err := os.ReadFile(tree + "/file"); err != nil || string(b) != "hello\n" {
		t.Errorf("%q, %v", b, err)
	}
	if n, err := open.ReadAt(make([]byte, 300<<10), 0); err != nil {
		t.Errorf("who has it open reads %d bytes: %v", n, err)
	}
	if st, err := os.Stat(l.Dir + "/outside"); err != nil || st.Mode().Perm() != 0o444 {
		t.Errorf("outside: %v, %v", st, err)
	}
}
