package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"storefs/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asUser runs the calling test again as an ordinary user, and reports whether
// that was done: it is not if the caller is one already.
func asUser(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		return false
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("", "nar-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(copied, program, 0o755), os.Chmod(dir, 0o755), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	return true
}

func TestIngestCanonical(t *testing.T) {
	path := inTemp(t, folder(map[string]node{
		"plain":    fileMode("x", 0o600),
		"exec":     fileMode("x", 0o711),
		"open":     fileMode("x", 0o666),
		"none":     fileMode("x", 0),
		"link":     link("plain"),
		"dangling": link("/no/such/file"),
		"sub":      folder(map[string]node{"f": file("")}),
	}))
	must(t, os.Chmod(filepath.Join(path, "sub"), 0o777|os.ModeSticky|os.ModeSetgid))
	must(t, os.Link(filepath.Join(path, "plain"), filepath.Join(path, "sub", "hard")))

	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 1234, 4321
	}
	s, err := Ingest(t.Context(), path, IngestOptions{UID: uid, GID: gid})
	must(t, err)
	who := fmt.Sprintf("%d:%d 1.000000000", uid, gid)
	want := []string{
		`"" 40555 ` + who,
		`"/dangling" 120777 ` + who,
		`"/exec" 100555 ` + who,
		`"/link" 120777 ` + who,
		`"/none" 100444 ` + who,
		`"/open" 100444 ` + who,
		`"/plain" 100444 ` + who,
		`"/sub" 40555 ` + who,
		`"/sub/f" 100444 ` + who,
		`"/sub/hard" 100444 ` + who,
	}
	if got := modes(t, path); !slices.Equal(got, want) {
		t.Errorf("canonical form\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	again := hashPath(t, path)
	if s.Kind != store.KindDirectory || s.Hash != again.Hash || s.Size != again.Size {
		t.Errorf("ingested %+v, then hashed %+v", s, again)
	}
}

func TestKinds(t *testing.T) {
	for want, n := range map[store.Kind]node{
		store.KindDirectory:  folder(nil),
		store.KindRegular:    file("x"),
		store.KindExecutable: fileMode("x", 0o755),
		store.KindSymlink:    link("x"),
	} {
		path := inTemp(t, n)
		if s := ingest(t, path); s.Kind != want {
			t.Errorf("ingested a %s as %q", want, s.Kind)
		}
		if s, err := HashStream(bytes.NewReader(dump(t, path))); err != nil || s.Kind != want || s.Hash != hashPath(t, path).Hash {
			t.Errorf("read a %s as %+v, %v", want, s, err)
		}
	}
}

func TestOwnerStays(t *testing.T) {
	path := inTemp(t, sample())
	if os.Getuid() == 0 {
		must(t, os.Chown(filepath.Join(path, "a"), 7, 8))
	}
	var before, after unix.Stat_t
	must(t, unix.Stat(filepath.Join(path, "a"), &before))
	_, err := Ingest(t.Context(), path, IngestOptions{UID: -1, GID: -1})
	must(t, err)
	must(t, unix.Stat(filepath.Join(path, "a"), &after))
	if before.Uid != after.Uid || before.Gid != after.Gid {
		t.Errorf("owner %d:%d became %d:%d", before.Uid, before.Gid, after.Uid, after.Gid)
	}
}

// As an ordinary user: files and directories that even their owner may not read,
// and attributes that only a writable file lets go of.
func TestIngestUnreadable(t *testing.T) {
	if asUser(t) {
		return
	}
	path := inTemp(t, folder(map[string]node{
		"none":  fileMode("secret", 0),
		"exec":  fileMode("x", 0o100),
		"write": fileMode("x", 0o200),
		"attr":  fileMode("x", 0o444),
		"sub":   folder(map[string]node{"inner": folder(map[string]node{"f": fileMode("x", 0)})}),
	}))
	must(t, os.Chmod(filepath.Join(path, "attr"), 0o644))
	if err := unix.Setxattr(filepath.Join(path, "attr"), "user.storefs", []byte("x"), 0); err != nil {
		t.Logf("without attributes: %v", err)
	}
	must(t, os.Chmod(filepath.Join(path, "attr"), 0o400))
	must(t, os.Chmod(filepath.Join(path, "sub", "inner"), 0))
	must(t, os.Chmod(filepath.Join(path, "sub"), 0o100))
	must(t, os.Chmod(path, 0))

	if _, err := HashPath(t.Context(), path); !errors.Is(err, os.ErrPermission) {
		t.Errorf("hashed what may not be read: %v", err)
	}
	s := ingest(t, path)
	if again := hashPath(t, path); again.Hash != s.Hash {
		t.Errorf("ingested %+v, then hashed %+v", s, again)
	}
	st, err := os.Stat(filepath.Join(path, "exec"))
	must(t, err)
	if st.Mode() != 0o555 {
		t.Errorf("a file of mode 0100 became %v", st.Mode())
	}
	if n, err := unix.Listxattr(filepath.Join(path, "attr"), nil); n != 0 && err == nil {
		t.Error("the attribute stayed")
	}
}

func TestIngestAttributes(t *testing.T) {
	// Version 2; user 1234 may do all, whatever the mode says.
	acl := []byte{
		2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 210, 4, 0, 0,
		4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
	}
	capability := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, c := range []struct {
		attr  string
		value []byte
		on    string
		stays bool
	}{
		{"user.storefs", []byte("x"), "f", false},
		{"user.storefs", []byte("x"), "sub", false},
		{"system.posix_acl_access", acl, "f", false},
		{"system.posix_acl_access", acl, "sub", false},
		{"system.posix_acl_default", acl, "sub", false},
		{"trusted.storefs", []byte("x"), "f", false},
		{"trusted.storefs", []byte("x"), "link", false},
		{"security.capability", capability, "f", false},
		{"security.selinux", []byte("system_u:object_r:usr_t:s0\x00"), "f", true},
		{"security.selinux", []byte("system_u:object_r:usr_t:s0\x00"), "link", true},
	} {
		t.Run(c.attr+" on "+c.on, func(t *testing.T) {
			path := inTemp(t, folder(map[string]node{
				"f": fileMode("x", 0o755), "sub": folder(nil), "link": link("f"), "g": file("y"),
			}))
			clean := hashPath(t, path)
			at := filepath.Join(path, c.on)
			if err := unix.Lsetxattr(at, c.attr, c.value, 0); err != nil {
				t.Skipf("this file system, or user, cannot set %s: %v", c.attr, err)
			}
			s := ingest(t, path)
			if s.Hash != clean.Hash {
				t.Error("the attribute changed the hash")
			}
			_, err := unix.Lgetxattr(at, c.attr, make([]byte, 100))
			if stays := err == nil; stays != c.stays {
				t.Errorf("it stays: %v, want %v", stays, c.stays)
			}
			if st, _ := os.Lstat(at); c.on != "link" && st.Mode().Perm() != 0o555 {
				t.Errorf("mode %v", st.Mode())
			}
		})
	}
}

func TestIngestRefuses(t *testing.T) {
	mknod := func(mode uint32) func(string) error {
		return func(path string) error { return unix.Mknod(path, mode|0o644, int(unix.Mkdev(1, 3))) }
	}
	for _, c := range []struct {
		what  string
		make  func(path string) error
		error string
	}{
		{"setuid", func(p string) error { return unix.Mknod(p, unix.S_IFREG|unix.S_ISUID|0o755, 0) }, "setuid"},
		{"setgid", func(p string) error { return unix.Mknod(p, unix.S_IFREG|unix.S_ISGID|0o755, 0) }, "setgid"},
		{"unreadable setuid", func(p string) error { return unix.Mknod(p, unix.S_IFREG|unix.S_ISUID, 0) }, "setuid"},
		{"fifo", mknod(unix.S_IFIFO), "fifo"},
		{"socket", func(p string) error {
			l, err := net.Listen("unix", p)
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		}, "socket"},
		{"character device", mknod(unix.S_IFCHR), "character device"},
		{"block device", mknod(unix.S_IFBLK), "block device"},
	} {
		t.Run(c.what, func(t *testing.T) {
			path := inTemp(t, folder(map[string]node{"bin": folder(map[string]node{"a": file("x")})}))
			if err := c.make(filepath.Join(path, "bin", "bad")); err != nil {
				t.Skipf("cannot make one: %v", err)
			}
			_, err := Ingest(t.Context(), path, IngestOptions{UID: -1, GID: -1})
			wantError(t, err, store.ErrUnfit, `"bin/bad"`, c.error, path)

			alone := filepath.Join(tempDir(t), "s")
			must(t, c.make(alone))
			_, err = Ingest(t.Context(), alone, IngestOptions{UID: -1, GID: -1})
			wantError(t, err, store.ErrUnfit, c.error, alone)
		})
	}
}

// A link is itself, wherever it is, and what it leads to stays untouched.
func TestIngestFollowsNoLink(t *testing.T) {
	outside := inTemp(t, folder(map[string]node{"f": fileMode("x", 0o640)}))
	before := modes(t, outside)

	path := inTemp(t, folder(map[string]node{
		"to-dir":  link(outside),
		"to-file": link(filepath.Join(outside, "f")),
		"up":      link("../.."),
		"loop":    link("loop"),
	}))
	ingest(t, path)
	ingest(t, filepath.Join(path, "to-dir"))
	if after := modes(t, outside); !slices.Equal(after, before) {
		t.Errorf("outside: %q became %q", before, after)
	}
}

// A link that takes the place of a directory or a file after it was listed.
func TestReplacedByLink(t *testing.T) {
	outside := inTemp(t, folder(map[string]node{"f": fileMode("x", 0o640)}))
	before := modes(t, outside)
	path := inTemp(t, folder(map[string]node{"d": folder(nil), "f": file("x")}))
	base, name, err := openParent(path)
	must(t, err)
	defer base.release()
	d, _, err := base.openDir(name)
	must(t, err)
	defer d.release()
	must(t, os.Remove(filepath.Join(path, "d")))
	must(t, os.Remove(filepath.Join(path, "f")))
	must(t, os.Symlink(outside, filepath.Join(path, "d")))
	must(t, os.Symlink(filepath.Join(outside, "f"), filepath.Join(path, "f")))

	tr := &tree{pipeline: newPipeline(t.Context(), nil), reading: reading{canon: &canon{-1, -1}}}
	defer tr.fail(nil)
	if _, err := tr.openDir(d, "d"); err == nil {
		t.Error("opened a directory through a link")
	}
	if err := tr.readFile(d, "f", &blocks{fresh: tr.fresh, give: tr.put}); err == nil {
		t.Error("opened a file through a link")
	}
	if after := modes(t, outside); !slices.Equal(after, before) {
		t.Errorf("outside: %q became %q", before, after)
	}
}

func TestMissing(t *testing.T) {
	gone := filepath.Join(tempDir(t), "gone")
	_, err := Ingest(t.Context(), gone, IngestOptions{UID: -1, GID: -1})
	wantError(t, err, os.ErrNotExist, gone)
	wantError(t, Dump(io.Discard, gone), os.ErrNotExist, gone)
	_, err = HashPath(t.Context(), gone+"/below")
	wantError(t, err, os.ErrNotExist, gone)
}

func TestReferences(t *testing.T) {
	c := candidates(20)
	path := inTemp(t, folder(map[string]node{
		"in-text":           file("see " + string(c[3]) + "/bin"),
		"in-link":           link(string(c[1]) + "/lib"),
		c[7].Base():         file("in a name"),
		"just the digest":   file(c[12].Digest()),
		"not one character": file(c[5].Digest()[:31]),
		"split over blocks": file(strings.Repeat("x", blockSize-16) + c[9].Digest() + strings.Repeat("x", 5*blockSize)),
	}))
	want := []store.Path{c[1], c[3], c[7], c[9], c[12]}
	slices.Sort(want)
	s, err := Ingest(t.Context(), path, IngestOptions{UID: -1, GID: -1, Candidates: NewCandidates(c)})
	must(t, err)
	if !slices.Equal(s.References, want) {
		t.Errorf("references %q, want %q", s.References, want)
	}
}

func TestTextSummary(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 9, 100_000} {
		text := bytes.Repeat([]byte("x"), n)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		want, err := HashPath(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		if got := TextSummary(text); got.Kind != want.Kind || got.Hash != want.Hash || got.Size != want.Size {
			t.Errorf("%d bytes: %+v, want %+v", n, got, want)
		}
	}
}

// A copy is what Ingest would have made, told alike, in other files.
func TestIngestCopy(t *testing.T) {
	for what, n := range map[string]node{
		"a tree": folder(map[string]node{
			"plain": fileMode("x", 0o600), "exec": fileMode("x", 0o711), "link": link("plain"),
			"big": file(strings.Repeat("text", 3*blockSize)), "sub": folder(map[string]node{"f": file("")}),
		}),
		"a file": fileMode("x", 0o755),
		"a link": link("x"),
	} {
		t.Run(what, func(t *testing.T) {
			var mu sync.Mutex
			told := func(to *[]string) FileFunc {
				return func(path string, kind store.Kind, sum [32]byte) {
					mu.Lock()
					defer mu.Unlock()
					*to = append(*to, fmt.Sprintf("%s %s %x", path, kind, sum))
				}
			}
			var files, copied []string
			path, same := inTemp(t, n), inTemp(t, n)
			dest := filepath.Join(tempDir(t), "copy")
			want, err := Ingest(t.Context(), same, IngestOptions{UID: -1, GID: -1, File: told(&files)})
			must(t, err)
			got, err := IngestCopy(t.Context(), path, dest, IngestOptions{UID: -1, GID: -1, File: told(&copied)})
			must(t, err)
			slices.Sort(files)
			slices.Sort(copied)
			if got.Kind != want.Kind || got.Hash != want.Hash || got.Size != want.Size || !slices.Equal(copied, files) {
				t.Errorf("%+v of %q, want %+v of %q", got, copied, want, files)
			}
			if a, b := modes(t, dest), modes(t, same); !slices.Equal(a, b) {
				t.Errorf("copied %q, want %q", a, b)
			}
			if sum := hashPath(t, dest); sum.Hash != want.Hash {
				t.Error("the copy is another")
			}
			var a, b unix.Stat_t
			must(t, unix.Lstat(path, &a))
			must(t, unix.Lstat(dest, &b))
			if a.Ino == b.Ino {
				t.Error("it is the same file")
			}
		})
	}
	taken := inTemp(t, file("taken"))
	if _, err := IngestCopy(t.Context(), inTemp(t, file(strings.Repeat("x", 9*blockSize))), taken, IngestOptions{UID: -1, GID: -1}); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	if _, err := IngestCopy(t.Context(), filepath.Join(tempDir(t), "gone"), filepath.Join(tempDir(t), "copy"), IngestOptions{UID: -1, GID: -1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}
