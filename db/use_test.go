package db

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"storefs/store"
)

// Uses are known at once; those that are too many are written soon, the others
// with the next commits or at the end, and all of them in time.
func TestManyUses(t *testing.T) {
	path := filepath.Join(memoryDir(t), "db.bolt")
	d, err := Open(path, testDir, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	const n = maxUsed + maxUsed/2
	var infos []store.Info
	for i := range n {
		infos = append(infos, store.Info{
			Path: store.Path(fmt.Sprintf("%s/%032d-used", testDir, i)), Kind: store.KindDirectory, NarHash: store.HashOf(store.SHA256, nil),
		})
	}
	register(t, d, Registration{Infos: infos})
	check := func(when string) {
		t.Helper()
		for i := 0; i < n; i += 97 {
			if last, err := d.LastUse(infos[i].Path); err != nil || last.Unix() != int64(i+1) {
				t.Fatalf("%s: the last use of %d: %v, %v", when, i, last.Unix(), err)
			}
		}
	}
	waiting := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.uses.used) + len(d.uses.taken)
	}
	for i := range n {
		d.Touch(time.Unix(int64(i+1), 0), infos[i].Path)
	}
	check("at once")
	waitFor(t, "most to be written", func() bool { return waiting() <= n-maxUsed })
	check("when most are written")
	register(t, d, Registration{Infos: []store.Info{testInfo(t, "other")}})
	waitFor(t, "the others to be written", func() bool { return waiting() == 0 })
	check("when all are written")
	d.Touch(time.Unix(1<<30, 0), infos[1].Path)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	if last, err := d.LastUse(infos[1].Path); err != nil || last.Unix() != 1<<30 {
		t.Errorf("after Close: %v, %v", last, err)
	}
	if last, err := d.LastUse(infos[n-1].Path); err != nil || last.Unix() != n {
		t.Errorf("after Close: %v, %v", last, err)
	}
}
