package state

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/nar"
	"storefs/store"
)

// thinDisk is a file system on a device that can be made to lose what is written
// to it, as one does that promised more than it has.
func thinDisk(t *testing.T) (at string, full func(), mend func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the disk that this needs")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	below, at := openDir(t), openDir(t)
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	disk := filepath.Join(below, "disk")
	err := os.WriteFile(disk, nil, 0o600)
	if err == nil {
		err = os.Truncate(disk, 64<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Without a journal no error but that of the data ends anything.
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", disk, at).CombinedOutput(); err != nil {
		t.Skipf("no loop devices: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	filler := filepath.Join(below, "filler")
	full = func() {
		t.Helper()
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for {
			if _, err := f.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}
	mend = func() {
		t.Helper()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	return at, full, mend
}

// A sync that fails is told to one who calls it, and may have failed of what others
// have written: that is not to be had from the next sync, which succeeds.
func TestSyncFailsOfOthers(t *testing.T) {
	ctx := context.Background()
	at, full, mend := thinDisk(t)
	dir := filepath.Join(at, "state")
	sd, err := store.ParseDir("/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, sd); err != nil {
		t.Fatal(err)
	}
	s := openState(t, dir)
	must(s.AddText(ctx, "first", []byte("first"), nil))(t)

	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789abcdef"), 256<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := nar.Dump(&archive, big); err != nil {
		t.Fatal(err)
	}
	add := func(r io.Reader) (store.Info, error) { return s.AddNAR(ctx, "big", true, store.SHA256, r) }
	r, w := io.Pipe()
	answer := make(chan error)
	go func() {
		_, err := add(r)
		answer <- err
	}()
	nearly := archive.Len() - 100
	if _, err := w.Write(archive.Bytes()[:nearly]); err != nil {
		t.Fatal(err)
	}
	full()
	if _, err := s.AddText(ctx, "other", []byte("other"), nil); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	mend()
	if _, err := w.Write(archive.Bytes()[nearly:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-answer; !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
	dropCaches := func() {
		t.Helper()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o600); err != nil {
			t.Log(err)
		}
	}
	dropCaches()
	verified(t, s)
	must(add(&archive))(t) // what is begun later is registered
	must(s.AddText(ctx, "other", []byte("other"), nil))(t)
	dropCaches()
	if v := verified(t, s); v.Paths != 3 {
		t.Errorf("%d paths, want 3", v.Paths)
	}
}

// So it is with a build, and with what is to repair something.
func TestBegunBeforeASyncFails(t *testing.T) {
	ctx := context.Background()
	s := newState(t)
	drv, d := derivation(t, s, "x", []string{"out"}, nil, nil)
	var failed error = unix.EIO
	register := func(fails bool) error {
		in := must(s.Inputs(drv, nil))(t)
		defer in.Release()
		o := Outcome{Drv: drv, Derivation: d, Inputs: in, Outputs: build(t, s, d)}
		if fails {
			s.lost.Store(&failed)
		}
		_, _, err := s.Register(ctx, o)
		return err
	}
	if err := register(true); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	verified(t, s)
	if err := register(false); err != nil {
		t.Fatal(err)
	}
	out := d.OutputList()[0]
	lose(t, s, out)
	for _, fails := range []bool{true, false} {
		failed := failed // another one
		p := must(s.VerifyPath(ctx, out, VerifyOptions{Repair: func(context.Context, store.Info) (Output, func(), error) {
			made := build(t, s, d)[0]
			if fails {
				s.lost.Store(&failed)
			}
			return made, nil, nil
		}}))(t)
		if p == nil || p.Repaired == fails {
			t.Errorf("fails %v: %+v", fails, p)
		}
	}
	verified(t, s)
}
