package builder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// Of more scratch directories than wait, those that wait are there, and the
// others are not.
func TestIdleScratches(t *testing.T) {
	dir := t.TempDir()
	p := &scratches{
		dir: filepath.Join(dir, "spare"), spare: true,
		ids: identity{uid: os.Geteuid(), gid: os.Getegid()}, gone: func(uint64) {},
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &build{job: Job{Drv: store.Path("/nix/store/00000000000000000000000000000000-x.drv")}}
	for range 2 {
		var taken []*scratch
		for range maxIdle + 5 {
			s, err := p.take(b)
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, s)
		}
		for _, s := range taken {
			p.give(s)
		}
		there, err := os.ReadDir(p.dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.idle) != maxIdle || len(there) != maxIdle {
			t.Errorf("%d wait, %d are there, want %d", len(p.idle), len(there), maxIdle)
		}
	}
	p.close()
	if there, err := os.ReadDir(dir); err != nil || len(there) > 0 {
		t.Errorf("left: %v, %v", there, err)
	}
}

// What is kept becomes its user's, and nothing else, whatever others do with it meanwhile.
func TestKeptIsChangedMeanwhile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to change owners")
	}
	const files, other = 500, 12345
	top := t.TempDir()
	outside, kept := filepath.Join(top, "outside"), filepath.Join(top, "kept")
	sub, link := filepath.Join(kept, "build", "sub"), filepath.Join(top, "link")
	for _, dir := range []string{outside, sub} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range files {
			file := filepath.Join(dir, fmt.Sprint(i))
			if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Chown(file, other, other)); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// A directory, and a link to another, in turns.
			err := errors.Join(os.Symlink(outside, link), unix.Renameat2(unix.AT_FDCWD, sub, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE))
			time.Sleep(100 * time.Microsecond)
			err = errors.Join(err, unix.Renameat2(unix.AT_FDCWD, sub, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE), os.Remove(link))
			time.Sleep(100 * time.Microsecond)
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 200 {
		_ = own(kept) // it may be told that something is not there
	}
	close(stop)
	<-stopped
	owned := func(dir string, by uint32) {
		for i := range files {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, fmt.Sprint(i)), &st); err != nil || st.Uid != by {
				t.Fatalf("%s/%d is of %d: %v", dir, i, st.Uid, err)
			}
		}
	}
	owned(outside, other)
	if err := own(kept); err != nil {
		t.Error(err)
	}
	owned(sub, 0)
}
