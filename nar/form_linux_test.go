package nar

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// strangers are what HashForm tells of path, a line each, sorted, and the paths of what
// has several names.
func strangers(t testing.TB, path string) (strange, linked []string) {
	t.Helper()
	var mu sync.Mutex
	s, err := HashForm(t.Context(), path, FormOptions{
		Owner: os.Getuid(),
		Strange: func(path string, what []string) {
			mu.Lock()
			defer mu.Unlock()
			strange = append(strange, path+": "+strings.Join(what, ", "))
		},
		Linked: func(path string, file FileID, names uint64) {
			mu.Lock()
			defer mu.Unlock()
			linked = append(linked, path)
			if names < 2 || file == (FileID{}) {
				t.Errorf("%s: %v has %d names", path, file, names)
			}
		},
	})
	must(t, err)
	if want := hashPath(t, path); s.Hash != want.Hash || s.Size != want.Size || s.Kind != want.Kind {
		t.Errorf("%+v, want %+v", s, want)
	}
	slices.Sort(strange)
	slices.Sort(linked)
	return strange, linked
}

// What Ingest has made canonical, or Restore, is not strange, whatever it was.
func TestFormOfStoreObjects(t *testing.T) {
	many := map[string]node{}
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		many[string(c)] = folder(map[string]node{"f": fileMode("x", 0o600), "l": link("f")}) // several runs
	}
	for what, n := range map[string]node{
		"a tree": sample(), "many": folder(many), "a file": fileMode("x", 0o640), "a program": fileMode("x", 0o711), "a link": link("x"),
	} {
		t.Run(what, func(t *testing.T) {
			path := inTemp(t, n)
			ingest(t, path)
			restored := filepath.Join(tempDir(t), "restored")
			must(t, Restore(strings.NewReader(string(dump(t, path))), restored, RestoreOptions{}))
			for _, p := range []string{path, restored} {
				if strange, linked := strangers(t, p); len(strange)+len(linked) > 0 {
					t.Errorf("%q, %q", strange, linked)
				}
				if what, err := Form(p, FormOptions{Owner: os.Getuid()}); len(what) > 0 || err != nil {
					t.Errorf("%q, %v", what, err)
				}
			}
		})
	}
}

func TestFormTellsWhatIsStrange(t *testing.T) {
	acl := []byte{
		2, 0, 0, 0, 1, 0, 4, 0, 255, 255, 255, 255, 2, 0, 7, 0, 210, 4, 0, 0,
		4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
	}
	attr := func(name string, value []byte) func(string) error {
		return func(path string) error { return unix.Lsetxattr(path, name, value, 0) }
	}
	mode := func(m uint32) func(string) error {
		return func(path string) error { return unix.Chmod(path, m) }
	}
	at := func(when time.Time) func(string) error {
		return func(path string) error {
			ts, err := unix.TimeToTimespec(when)
			if err != nil {
				return err
			}
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	for _, c := range []struct {
		on     string
		change func(path string) error
		want   string // "": nothing
	}{
		{"sub/f", mode(0o644), "its mode is 0644, not 0444"},
		{"sub/f", mode(0o440), "its mode is 0440, not 0444"},
		{"run", mode(0o755), "its mode is 0755, not 0555"},
		{"run", mode(0o4555), "its mode is 4555, not 0555"},
		{"sub/f", mode(0o2444), "its mode is 2444, not 0444"},
		{"sub", mode(0o1755), "its mode is 1755, not 0555"},
		{"", mode(0o755), "its mode is 0755, not 0555"},
		{"sub/f", at(time.Unix(0, 0)), "its time is 1970-01-01 00:00:00 UTC, not 1970-01-01 00:00:01 UTC"},
		{"sub/f", at(time.Unix(1, 5e8)), "its time is 1970-01-01 00:00:01.5 UTC, not 1970-01-01 00:00:01 UTC"},
		{"link", at(time.Unix(1e9, 0)), "its time is 2001-09-09 01:46:40 UTC, not 1970-01-01 00:00:01 UTC"},
		{"", at(time.Unix(1e9, 0)), "its time is 2001-09-09 01:46:40 UTC, not 1970-01-01 00:00:01 UTC"},
		{"sub/f", func(path string) error { return os.Lchown(path, 1234, -1) }, "its owner is 1234, not 0"},
		{"link", func(path string) error { return os.Lchown(path, 1234, -1) }, "its owner is 1234, not 0"},
		{"", func(path string) error { return os.Lchown(path, 1234, -1) }, "its owner is 1234, not 0"},
		{"sub/f", func(path string) error { return os.Lchown(path, -1, 1234) }, ""},
		{"sub/f", attr("user.storefs", []byte("x")), `it has the attribute "user.storefs"`},
		{"sub", attr("user.storefs", []byte("x")), `it has the attribute "user.storefs"`},
		{"link", attr("trusted.storefs", []byte("x")), `it has the attribute "trusted.storefs"`},
		{"sub/f", attr("system.posix_acl_access", acl), `it has the attribute "system.posix_acl_access"`},
		{"sub", attr("system.posix_acl_default", acl), `it has the attribute "system.posix_acl_default"`},
		{"sub/f", attr("security.capability", []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), `it has the attribute "security.capability"`},
		{"sub/f", attr("security.selinux", []byte("system_u:object_r:usr_t:s0\x00")), ""},
		{"run", func(path string) error {
			return errors.Join(mode(0o700)(path), attr("user.storefs", []byte("x"))(path))
		}, `its mode is 0700, not 0555, it has the attribute "user.storefs"`},
	} {
		name := c.on + " " + c.want
		t.Run(name, func(t *testing.T) {
			if strings.Contains(c.want, "owner") && os.Getuid() != 0 {
				t.Skip("only root can give files away")
			}
			path := inTemp(t, folder(map[string]node{
				"run": fileMode("#!/bin/sh\n", 0o755), "link": link("run"), "sub": folder(map[string]node{"f": file("x")}),
			}))
			ingest(t, path)
			was := hashPath(t, path)
			target := filepath.Join(path, c.on)
			if err := c.change(target); err != nil {
				t.Skipf("this file system, or user, cannot do it: %v", err)
			}
			var want []string
			if c.want != "" {
				want = []string{c.on + ": " + c.want}
			}
			if got, linked := strangers(t, path); !slices.Equal(got, want) || len(linked) > 0 {
				t.Errorf("%q, linked %q, want %q", got, linked, want)
			}
			if now := hashPath(t, path); now.Hash != was.Hash {
				t.Error("it is another object")
			}
			if c.on == "" {
				if got, err := Form(path, FormOptions{Owner: os.Getuid()}); err != nil || !slices.Equal(got, []string{c.want}) {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// Whatever has several names is told under each that is inside, links too; directories
// have as many as they contain directories.
func TestFormTellsLinks(t *testing.T) {
	path := inTemp(t, folder(map[string]node{
		"a": file("x"), "alone": file("x"), "link": link("a"), "sub": folder(map[string]node{"deep": folder(nil)}),
	}))
	outside := filepath.Join(filepath.Dir(path), "outside")
	must(t, os.Link(filepath.Join(path, "a"), filepath.Join(path, "sub", "b")))
	must(t, unix.Linkat(unix.AT_FDCWD, filepath.Join(path, "link"), unix.AT_FDCWD, outside, 0))
	ingest(t, path)
	strange, linked := strangers(t, path)
	if want := []string{"a", "link", "sub/b"}; len(strange) > 0 || !slices.Equal(linked, want) {
		t.Errorf("%q, linked %q, want %q", strange, linked, want)
	}
}

func TestKeepAttr(t *testing.T) {
	for attr, want := range map[string]bool{
		"user.x": false, "trusted.x": false, "security.capability": false, "system.posix_acl_access": false, "system.posix_acl_default": false,
		"security.selinux": true, "system.nfs4_acl": true, "btrfs.compression": true,
	} {
		if got := keepAttr(attr); got != want {
			t.Errorf("%s stays: %v", attr, got)
		}
	}
}
