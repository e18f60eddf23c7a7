package builder_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/store"
)

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
		if err := unix.Mount("tmpfs", o.Builds, "tmpfs", 0, "size=16m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(o.Builds, 0); err != nil {
				t.Error(err)
			}
		})
		return local(t, o)
	})
	const fill = `dd if=/dev/zero of=x bs=1M count=100`
	if f := w.Failed(w.Job("full", fill+` || exit 1`, nil)); f.Cause != store.CauseNoSpace || f.Status != 1 {
		t.Errorf("failure: %s", f.Text())
	}
	if f := w.Failed(w.Job("no-output", fill+`; true`, nil)); f.Cause != store.CauseNoSpace {
		t.Errorf("failure: %s", f.Text())
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for block := make([]byte, 1<<20); r.Context().Err() == nil; {
			_, _ = w.Write(block)
		}
	}))
	defer s.Close()
	if f := w.Failed(w.Fetch(s.URL, "sha256", store.HashOf(store.SHA256, nil))); f.Cause != store.CauseNoSpace || !strings.HasSuffix(f.Message, ": no space left on device; the disk is full") {
		t.Errorf("failure: %s", f.Text())
	}
	if f := w.Failed(w.Job("room", fill+`; rm x; exit 1`, nil)); f.Cause != store.CauseBuilder {
		t.Errorf("failure: %s", f.Text())
	}
}

// A quota that is used up is a full disk, also where the builder does not say why it failed.
func TestFullQuota(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a file system with a quota")
	}
	if _, err := exec.LookPath("btrfs"); err != nil {
		t.Skip("btrfs-progs is not installed")
	}
	w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
		image := filepath.Join(t.TempDir(), "image")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 160<<20)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs.btrfs", "-q", image).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.btrfs: %v: %s", err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", image, o.Builds).CombinedOutput(); err != nil {
			t.Skipf("a Btrfs cannot be mounted: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(o.Builds, 0); err != nil {
				t.Error(err)
			}
		})
		for _, args := range [][]string{{"quota", "enable"}, {"qgroup", "limit", "24M"}} {
			if out, err := exec.Command("btrfs", append(args, o.Builds)...).CombinedOutput(); err != nil {
				t.Fatalf("btrfs %v: %v: %s", args, err, out)
			}
		}
		return local(t, o)
	})
	if f := w.Failed(w.Job("room", `exit 1`, nil)); f.Cause != store.CauseBuilder {
		t.Errorf("failure: %s", f.Text())
	}
	const fill = `dd if=/dev/zero of=x bs=1M count=64 2>/dev/null`
	if f := w.Failed(w.Job("full", fill+` || exit 1`, nil)); f.Cause != store.CauseNoSpace || f.Status != 1 {
		t.Errorf("failure: %s", f.Text())
	}
}

// What builds nothing needs no room: on a full disk, it would be refused.
func TestSpareIsMadeByTheFirstBuild(t *testing.T) {
	w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
		o.Spare = filepath.Join(o.Builds, "spare")
		return local(t, o)
	})
	if _, err := os.Stat(w.Options.Spare); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there before a build: %v", err)
	}
	w.Built(w.Job("a", "echo > $out", nil))
	if _, err := os.Stat(w.Options.Spare); err != nil {
		t.Error(err)
	}
}
