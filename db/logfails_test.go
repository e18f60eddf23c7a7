package db

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"storefs/store"
)

// A record of which nobody knows whether the disk has it costs nobody anything:
// its batch goes into the file, and it is never read again.
func TestLogFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.bolt")
	d, err := Open(path, testDir, Options{Create: true, rest: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var infos []store.Info
	add := func() {
		t.Helper()
		infos = append(infos, testInfo(t, fmt.Sprint("p", len(infos))))
		register(t, d, Registration{Infos: infos[len(infos)-1:]})
	}
	add()
	add()
	// What the disk has after all is another record, so that it is known again.
	lost := *d.file.log
	whole := d.file.log.file
	if err := lost.append(encodeAll([]change{{bucket: bucketUse, key: "lost", value: []byte("x")}})); err != nil {
		t.Fatal(err)
	}
	if d.file.log.file, err = os.Open(path + ".log"); err != nil {
		t.Fatal(err)
	}
	check := func(want int) {
		t.Helper()
		copied := filepath.Join(t.TempDir(), "db.bolt")
		for _, name := range []string{"", ".log"} {
			b, err := os.ReadFile(path + name)
			if err == nil {
				err = os.WriteFile(copied+name, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		d := open(t, copied)
		for i, info := range infos {
			if ok, err := d.Valid(info.Path); !ok || err != nil {
				t.Errorf("with %d: %d is valid: %v, %v", want, i, ok, err)
			}
		}
		if n, err := d.Count(); n != want || err != nil {
			t.Errorf("%d, want %d; %v", n, want, err)
		}
		if err := d.view(func(tx reader) error {
			if tx.has(bucketUse, "lost") {
				t.Errorf("with %d: what was lost is there", want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	add() // into the file
	check(3)
	d.file.log.file.Close()
	d.file.log.file = whole
	add()
	check(4)
	add()
	check(5)
}
