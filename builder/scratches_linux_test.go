package builder

import (
	"os"
	"path/filepath"
	"testing"

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
