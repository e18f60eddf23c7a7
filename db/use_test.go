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

// A version's elder is what made the same thing of another version, and not what was
// fetched for it, or made of it.
func TestExpectedOfSiblings(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db.bolt"))
	took := map[string]time.Duration{"hello-1.0": time.Hour, "hello-1.0-doc": time.Minute, "hello-1.0.tar.gz": time.Second, "hello-1.0.patch": time.Millisecond}
	for _, name := range []string{"hello-1.0", "hello-1.0-doc", "hello-1.0.tar.gz", "hello-1.0.patch"} { // what was fetched last did not succeed in being built
		drv := testInfo(t, name+".drv")
		register(t, d, Registration{Infos: []store.Info{drv}, Duration: &Duration{drv.Path, took[name]}})
	}
	for name, want := range map[string]time.Duration{
		"hello-1.1": time.Hour, "hello-2.0rc1": time.Hour, "hello-1.1-doc": time.Minute, "hello-1.1.tar.gz": time.Second, "hello-1.1.patch": time.Millisecond,
		"hello-1.1.tar.xz": 0, "hello-1.1-dev": 0,
	} {
		if got, ok := d.Expected(testPath(t, name+".drv")); got != want || ok != (want > 0) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestPackageName(t *testing.T) {
	for name, want := range map[string]string{
		"hello.drv": "hello", "hello-1.0.drv": "hello", "hello-2.10.tar.bz2.drv": "hello.tar.bz2", "gcc-wrapper-4.9.3.drv": "gcc-wrapper",
		"foo-2015-08-08-lib.drv": "foo-lib", "foo-1.0a.drv": "foo", "foo-1.0-rc2.drv": "foo", "foo-1.0.drv.drv": "foo", "foo-1.store": "foo",
		"foo-_.drv": "foo", "-1.drv": "-1", "foo-.drv": "foo-", "openssl-1.0.2g.tar.gz.drv": "openssl.tar.gz",
	} {
		if got := packageName(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
