package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
	"storefs/tree"
)

// problems are what Verify reports, a line each.
func problems(t testing.TB, s *State, o VerifyOptions) []string {
	t.Helper()
	var lines []string
	sum, err := s.Verify(t.Context(), o, func(p Problem) {
		line := p.Path.Name() + ": " + p.Message
		if p.Repaired {
			line += " (repaired)"
		}
		lines = append(lines, line)
	})
	if err != nil {
		t.Error(err)
	}
	if sum.Problems != len(lines) {
		t.Errorf("%+v of %q", sum, lines)
	}
	return lines
}

// noRepair is for what can be copied: nobody makes it anew.
func noRepair(t testing.TB) func(context.Context, store.Info) (Output, func(), error) {
	return func(_ context.Context, i store.Info) (Output, func(), error) {
		t.Errorf("%s is made anew", i.Path)
		return Output{}, nil, store.ErrUnknown
	}
}

// addTree adds an object with files in it.
func addTree(t testing.TB, s *State, name string) store.Path {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := errors.Join(
		os.MkdirAll(dir+"/bin", 0o755), os.WriteFile(dir+"/bin/run", []byte("#!/bin/sh\n"), 0o755),
		os.WriteFile(dir+"/file", []byte("hello"), 0o644), os.Symlink("file", dir+"/link"),
	); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := nar.Dump(&archive, dir); err != nil {
		t.Fatal(err)
	}
	return must(s.AddNAR(t.Context(), name, true, store.SHA256, &archive))(t).Path
}

// in changes what is inside of an object, in directories that are canonical afterwards.
func in(dir string, change func() error) error {
	second := time.Unix(1, 0)
	return errors.Join(os.Chmod(dir, 0o755), change(), os.Chmod(dir, 0o555), os.Chtimes(dir, second, second))
}

// Whatever has another form is reported by who reads everything, inside too; it is copied, and
// what it is a link to stays as it is.
func TestVerifyFindsOtherForms(t *testing.T) {
	for what, test := range map[string]struct {
		change func(object, outside string) error
		want   string
		plain  bool // it is found without reading
	}{
		"the mode of a file":      {func(o, _ string) error { return os.Chmod(o+"/file", 0o644) }, `"file": its mode is 0644, not 0444`, false},
		"the mode of a program":   {func(o, _ string) error { return unix.Chmod(o+"/bin/run", 0o4755) }, `"bin/run": its mode is 4755, not 0555`, false},
		"the mode of a directory": {func(o, _ string) error { return os.Chmod(o+"/bin", 0o755) }, `"bin": its mode is 0755, not 0555`, false},
		"the mode of the object":  {func(o, _ string) error { return os.Chmod(o, 0o700) }, "its mode is 0700, not 0555", true},
		"times": {func(o, _ string) error {
			return errors.Join(os.Chtimes(o+"/file", time.Unix(5, 0), time.Unix(5, 0)), os.Chtimes(o, time.Unix(6, 0), time.Unix(6, 0)))
		}, `its time is 1970-01-01 00:00:06 UTC, not 1970-01-01 00:00:01 UTC; "file": its time is 1970-01-01 00:00:05 UTC, not 1970-01-01 00:00:01 UTC`, true},
		"an owner":     {func(o, _ string) error { return os.Lchown(o+"/link", otherUser, -1) }, fmt.Sprintf(`"link": its owner is %d, not 0`, otherUser), false},
		"an attribute": {func(o, _ string) error { return unix.Setxattr(o+"/bin", "user.x", []byte("x"), 0) }, `"bin": it has the attribute "user.x"`, false},
		"a link from outside": {
			func(o, outside string) error { return os.Link(o+"/file", outside) },
			`"file": 1 of its 2 links is not in the store`, false,
		},
		"a link to what is outside": {func(o, outside string) error {
			if err := os.WriteFile(outside, []byte("hello"), 0o640); err != nil {
				return err
			}
			return in(o, func() error { return errors.Join(os.Remove(o+"/file"), os.Link(outside, o+"/file")) })
		}, "", false},
	} {
		t.Run(what, func(t *testing.T) {
			s := newState(t)
			object := addTree(t, s, "tree")
			outside := filepath.Join(filepath.Dir(s.Dir()), "outside")
			if err := test.change(s.Real(object), outside); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			was, _ := os.Lstat(outside)
			if got := problems(t, s, VerifyOptions{}); len(got) > 0 != test.plain {
				t.Errorf("without reading: %q", got)
			}
			got := problems(t, s, VerifyOptions{Contents: true})
			switch want := []string{"tree: " + test.want}; {
			case test.want == "" && len(got) != 2: // its mode, and its links
				t.Errorf("%q", got)
			case test.want != "" && !slices.Equal(got, want):
				t.Errorf("%q, want %q", got, want)
			}
			if d := must(s.db.Damage(object))(t); d == nil || !d.Repaired.IsZero() {
				t.Errorf("noted: %+v", d)
			}
			for _, line := range problems(t, s, VerifyOptions{Contents: true, Repair: noRepair(t)}) {
				if !strings.HasSuffix(line, " (repaired)") {
					t.Error(line)
				}
			}
			verified(t, s)
			if d := must(s.db.Damage(object))(t); d == nil || d.Repaired.IsZero() {
				t.Errorf("noted after the repair: %+v", d)
			}
			if is, _ := os.Lstat(outside); was != nil && (is == nil || is.Mode() != was.Mode() || !is.ModTime().Equal(was.ModTime())) {
				t.Errorf("outside: %v became %v", was, is)
			}
			if left := must(os.ReadDir(s.Builds()))(t); len(left) > 0 {
				t.Errorf("left in scratch: %v", left)
			}
		})
	}
}

// The lines are not longer than somebody reads.
func TestVerifyTellsOfTheFirstFiles(t *testing.T) {
	var f form
	for i := range 30 {
		f.add(fmt.Sprintf("f%02d", (i*7)%30), []string{"a", "b"})
	}
	want := `"f00": a, b; "f01": a, b; "f02": a, b; "f03": a, b; "f04": a, b; "f05": a, b; "f06": a, b; "f07": a, b; "f08": a, b; "f09": a, b; and 20 other files`
	if got := f.message(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	f.more = 1
	if got := f.message(); !strings.HasSuffix(got, "; and another file") {
		t.Error(got)
	}
}

// A file may have names in all outputs of a build, and in what is being made or removed.
func TestVerifyAllowsLinksOfTheStore(t *testing.T) {
	s := newState(t)
	drv, d := derivation(t, s, "x", []string{"dev", "out"}, nil, nil)
	outputs := build(t, s, d)
	a, b := outputs[0].Scratch, outputs[1].Scratch
	if err := errors.Join(
		in(a, func() error { return os.Link(a+"/file", a+"/again") }),
		in(b, func() error { return errors.Join(os.Link(a+"/file", b+"/shared"), os.Link(b+"/file", b+"/again")) }),
	); err != nil {
		t.Fatal(err)
	}
	for i, o := range outputs {
		sum, err := nar.Ingest(t.Context(), o.Scratch, nar.IngestOptions{UID: -1, GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		outputs[i].Info.NarHash, outputs[i].Info.NarSize = sum.Hash, sum.Size
	}
	if _, _, err := s.Register(t.Context(), Outcome{Drv: drv, Derivation: d, Outputs: outputs}); err != nil {
		t.Fatal(err)
	}
	verified(t, s)

	// One output is removed: its names go.
	dev := outputs[0].Info.Path
	_, trash, err := s.unregister(t.Context(), []store.Path{dev})
	if err != nil {
		t.Fatal(err)
	}
	verified(t, s)
	trash = slices.DeleteFunc(trash, func(p string) bool { st, err := os.Lstat(p); return err != nil || !st.IsDir() })
	if len(trash) != 1 { // the other is their closure
		t.Fatal(trash)
	}
	if err := os.Rename(trash[0], filepath.Join(filepath.Dir(s.Dir()), "outside")); err != nil {
		t.Fatal(err)
	}
	got := problems(t, s, VerifyOptions{Contents: true})
	if want := []string{`x: "shared": 2 of its 3 links are not in the store`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A build may be registered while its first output, in the order of names, has been passed by.
func TestVerifyDuringARegistration(t *testing.T) {
	s := newState(t)
	var drv store.Path
	var d *storeexpr.Derivation
	first, last := "", ""
	for i := 0; first >= last; i++ {
		drv, d = derivation(t, s, fmt.Sprint("x", i), []string{"dev", "out"}, nil, nil)
		names := must(s.db.Names("", 1000))(t)
		first, last = d.Outputs[0].Path.Base(), d.Outputs[1].Path.Base()
		if first > names[len(names)-1].Name || last < names[len(names)-1].Name {
			last = ""
		}
	}
	outputs := build(t, s, d)
	from := outputs[0].Scratch + "/file"
	if err := in(outputs[1].Scratch, func() error { return os.Link(from, outputs[1].Scratch+"/shared") }); err != nil {
		t.Fatal(err)
	}
	sum := must(nar.Ingest(t.Context(), outputs[1].Scratch, nar.IngestOptions{UID: -1, GID: -1}))(t)
	outputs[1].Info.NarHash, outputs[1].Info.NarSize = sum.Hash, sum.Size
	was := must(s.db.Count())(t)
	got := problems(t, s, VerifyOptions{Contents: true, Progress: func(done, _ int) {
		if done == was {
			if _, _, err := s.Register(t.Context(), Outcome{Drv: drv, Derivation: d, Outputs: outputs}); err != nil {
				t.Error(err)
			}
		}
	}})
	if len(got) > 0 {
		t.Errorf("%q", got)
	}
	// But what is in none of them is told.
	if err := os.Link(s.Real(d.Outputs[0].Path)+"/file", filepath.Join(filepath.Dir(s.Dir()), "outside")); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, s, VerifyOptions{Contents: true}); len(got) != 2 || !strings.Contains(got[0], "1 of its 3 links is not in the store") {
		t.Errorf("%q", got)
	}
}

// A builder that makes a directory a link while links are counted leads nobody elsewhere.
func TestLinksAreCountedInside(t *testing.T) {
	s := newState(t)
	outside, builds := filepath.Join(filepath.Dir(s.Dir()), "outside"), s.Builds()
	if err := errors.Join(
		os.Mkdir(outside, 0o755), os.Mkdir(builds+"/b", 0o755), os.WriteFile(builds+"/a", nil, 0o644), os.Link(builds+"/a", outside+"/file"),
	); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(builds+"/a", &st); err != nil {
		t.Fatal(err)
	}
	l := &fileLinks{total: 2}
	v := verifier{state: s, links: map[nar.FileID]*fileLinks{{Device: uint64(st.Dev), Inode: st.Ino}: l}}
	err := v.countLinks(t.Context(), builds, ".", func(*fileLinks) bool { // that there is a b has been seen
		if l.seen > 0 {
			return true
		}
		if err := errors.Join(os.Remove(builds+"/b"), os.Symlink(outside, builds+"/b")); err != nil {
			t.Error(err)
		}
		return true
	})
	if err != nil || l.seen != 1 {
		t.Errorf("counted %d, %v", l.seen, err)
	}
}

// What could not be read may have the links that are looked for: nothing is said of them.
func TestVerifyKnowsNotAllLinks(t *testing.T) {
	s := newState(t)
	object, other := addTree(t, s, "tree"), addTree(t, s, "other")
	err := in(s.Real(other), func() error {
		return errors.Join(os.Link(s.Real(object)+"/file", s.Real(other)+"/zzz"), unix.Mkfifo(s.Real(other)+"/fifo", 0o444))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := problems(t, s, VerifyOptions{Contents: true}); len(got) != 1 || !strings.Contains(got[0], "it is a fifo") {
		t.Errorf("%q", got)
	}
}

// What has another form and, as is seen then, other contents is made anew.
func TestRepairOfFormAndContents(t *testing.T) {
	s := newState(t)
	drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
	if _, _, err := s.Register(t.Context(), Outcome{Drv: drv, Derivation: d, Outputs: build(t, s, d)}); err != nil {
		t.Fatal(err)
	}
	real := s.Real(d.Outputs[0].Path)
	overwrite(t, real+"/file", "damaged")
	if err := os.Chmod(real, 0o755); err != nil {
		t.Fatal(err)
	}
	made := 0
	got := problems(t, s, VerifyOptions{Repair: func(context.Context, store.Info) (Output, func(), error) {
		made++
		o := build(t, s, d)[0]
		return o, func() { _ = tree.RemoveAll(o.Scratch) }, nil
	}})
	if want := []string{"x: its mode is 0755, not 0555 (repaired)"}; !slices.Equal(got, want) || made != 1 {
		t.Errorf("%q, want %q; made anew %d times", got, want, made)
	}
	if left := must(os.ReadDir(s.Builds()))(t); len(left) > 0 {
		t.Errorf("left in scratch: %v", left)
	}
	verified(t, s)
}
