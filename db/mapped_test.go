package db

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"storefs/store"
)

// Where a process may not have as much address space as would be best, it does with less.
func TestLittleAddressSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.bolt")
	d, err := Open(path, testDir, Options{Create: true, mapped: 1 << 47}) // which is all that there is
	if err != nil {
		t.Fatal(err)
	}
	if d.mapped != smallMmapSize {
		t.Errorf("%d bytes are mapped", d.mapped)
	}
	info := testInfo(t, "x")
	register(t, d, Registration{Infos: []store.Info{info}})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	if ok, err := d.Valid(info.Path); !ok || err != nil {
		t.Error(ok, err)
	}
}

// A file that outgrows its map is mapped anew, whoever reads meanwhile.
func TestOutgrowsMap(t *testing.T) {
	d, err := Open(filepath.Join(t.TempDir(), "db.bolt"), testDir, Options{Create: true, mapped: 32 << 10, pages: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	first := testInfo(t, "first")
	register(t, d, Registration{Infos: []store.Info{first}})
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if ok, err := d.Valid(first.Path); !ok || err != nil {
					t.Error(ok, err)
					return
				}
			}
		})
	}
	const rounds, each = 40, 100
	for i := range rounds {
		var r Registration
		for j := range each {
			r.Infos = append(r.Infos, testInfo(t, fmt.Sprint("x", i, "-", j), first.Path))
		}
		register(t, d, r)
	}
	close(done)
	readers.Wait()
	if n, err := d.Count(); n != rounds*each+1 || err != nil {
		t.Error(n, err)
	}
}
