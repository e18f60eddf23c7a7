package db

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// randomRecord is a change of about n bytes.
func randomRecord(n int) []change {
	value := make([]byte, n)
	for i := range value {
		value[i] = byte(1 + rand.IntN(255))
	}
	return []change{{bucket: bucketUse, key: fmt.Sprint(rand.Int()), value: value}}
}

func encodeAll(list []change) []byte {
	var b []byte
	for _, c := range list {
		b = appendChange(b, c.bucket, c.key, c.value)
	}
	return b
}

// Records of any size go around the ring, while what the file has is let go; and
// whoever opens the log gets exactly the others.
func TestLogGoesAround(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _, err := openLog(path, nil, logPages)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.file.Close() }()
	type kept struct {
		keys []string
		at   position // behind it
		used int      // pages, up to and with it
	}
	at := l.at(true)
	var waiting []kept
	rounds := 0
	for range 3000 {
		list := randomRecord(rand.IntN(20) * rand.IntN(2500))
		body := encodeAll(list)
		ever, now := l.fits(len(body))
		if !ever {
			t.Fatalf("%d bytes never fit", len(body))
		}
		for !now {
			// The file gets the first few.
			n := 1 + rand.IntN(len(waiting))
			at = waiting[n-1].at
			gone := waiting[n-1].used
			l.used -= gone
			waiting = waiting[n:]
			for i := range waiting {
				waiting[i].used -= gone
			}
			_, now = l.fits(len(body))
		}
		before := l.page
		if err := l.append(body); err != nil {
			t.Fatal(err)
		}
		if l.page < before {
			rounds++
		}
		waiting = append(waiting, kept{[]string{list[0].key}, l.at(true), l.used})
		if rand.IntN(100) > 0 {
			continue
		}
		l.file.Close()
		again, later, err := openLog(path, &at, logPages)
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for _, k := range waiting {
			want = append(want, k.keys...)
		}
		for _, c := range later {
			got = append(got, c.key)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || again.page != l.page || again.used != l.used || again.seq != l.seq {
			t.Fatalf("after it was opened: %d records of %d, page %d of %d, used %d of %d, number %d of %d",
				len(got), len(want), again.page, l.page, again.used, l.used, again.seq, l.seq)
		}
		l = again
	}
	if rounds < 3 {
		t.Errorf("it went around %d times", rounds)
	}
}

// What a machine that lost its power had written of the last record only in part
// is not there; what is before it is.
func TestTornRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, _, err := openLog(path, nil, logPages)
	if err != nil {
		t.Fatal(err)
	}
	at := l.at(true)
	for _, n := range []int{10, 9000} {
		if err := l.append(encodeAll(randomRecord(n))); err != nil {
			t.Fatal(err)
		}
	}
	l.file.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		torn := bytes.Clone(whole)
		i := 2*logPage + rand.IntN(logHeader+9000)
		switch rand.IntN(3) {
		case 0:
			torn[i] ^= 1 << rand.IntN(8)
		case 1:
			clear(torn[min(i, 2*logPage+logHeader):]) // the checksum, or what it is of
		case 2:
			torn = torn[:i]
		}
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		l, later, err := openLog(path, &at, logPages)
		if err != nil {
			t.Fatal(err)
		}
		l.file.Close()
		if len(later) != 1 || l.seq != 1 {
			t.Fatalf("byte %d: %d changes, number %d", i, len(later), l.seq)
		}
	}
}

// A log that is needed and not there is told of; one that is not needed is made.
func TestLogIsMissing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db.bolt")
	d, err := Open(path, testDir, Options{Create: true, rest: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	first, second := testInfo(t, "first"), testInfo(t, "second")
	register(t, d, Registration{Infos: []store.Info{first}}) // into the file: the log begins with it
	register(t, d, Registration{Infos: []store.Info{second}})
	killed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	closed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.bolt")
	if d, err = Open(other, testDir, Options{Create: true, rest: time.Hour}); err != nil {
		t.Fatal(err)
	}
	register(t, d, Registration{Infos: []store.Info{first}})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	otherLog, err := os.ReadFile(other + ".log")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		file, log []byte // log nil: none
		want      string // of the error, "" for none
		second    bool   // is valid then
	}{
		"closed, no log":          {file: closed, second: true},
		"closed, another log":     {file: closed, log: []byte(logMagic + strings.Repeat("\x00", 4000)), second: true},
		"closed, that of another": {file: closed, log: otherLog, second: true},
		"closed, something":       {file: closed, log: []byte("notes\n"), second: true},
		"killed, no log":          {file: killed, want: "log is missing"},
		"killed, another log":     {file: killed, log: []byte(logMagic + strings.Repeat("\x00", 4000)), want: "not its log"},
		"killed, that of another": {file: killed, log: otherLog, want: "not its log"},
		"killed, something":       {file: killed, log: []byte("notes\n"), want: "not its log"},
		"killed, an empty log":    {file: killed, log: []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db.bolt")
			if err := os.WriteFile(path, test.file, 0o600); err != nil {
				t.Fatal(err)
			}
			if test.log != nil {
				if err := os.WriteFile(path+".log", test.log, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for n := range 3 { // after the first time, whose owner only asks, all is well
				d, err := Open(path, testDir, Options{})
				if test.want != "" {
					if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
						t.Fatalf("got %v, want %q", err, test.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				for i, want := range map[*store.Info]bool{&first: true, &second: test.second} {
					if ok, err := d.Valid(i.Path); ok != want || err != nil {
						t.Errorf("%s: valid %v, %v", i.Path.Name(), ok, err)
					}
				}
				if n > 0 {
					register(t, d, Registration{Infos: []store.Info{testInfo(t, "third")}})
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Where only the file is put back, and not its log, what the log has of what came
// after it is never read again.
func TestOlderFile(t *testing.T) {
	d, infos := begun(t, 1)
	reopen := func() {
		t.Helper()
		var err error
		if d, err = Open(d.path, testDir, Options{rest: time.Hour}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
	}
	add := func(what string) {
		t.Helper()
		for i := range 5 {
			register(t, d, Registration{Infos: []store.Info{testInfo(t, fmt.Sprint(what, i))}})
		}
	}
	d.Close()
	older := read(t, d.path)
	reopen()
	add("gone")
	d.Close()
	if err := os.WriteFile(d.path, older, 0o600); err != nil {
		t.Fatal(err)
	}
	reopen()
	for i := range 2 {
		infos = append(infos, testInfo(t, fmt.Sprint("new", i)))
		register(t, d, Registration{Infos: infos[len(infos)-1:]})
	}
	haveAll(t, read(t, d.path), d.path+".log", infos...)
	c := copied(t, d.path)
	for i := range 5 {
		if ok, err := c.Valid(testPath(t, fmt.Sprint("gone", i))); ok || err != nil {
			t.Errorf("gone%d is valid: %v, %v", i, ok, err)
		}
	}
}

// A file without a log, as older versions wrote it, gets one.
func TestOlderVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.bolt")
	d := open(t, path)
	register(t, d, Registration{Infos: []store.Info{testInfo(t, "old")}})
	if err := d.update(context.Background(), false, func(w writer) error {
		return w.put(bucketMeta, keyVersion, []byte(olderVersion))
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path + ".log"); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		d = open(t, path)
		register(t, d, Registration{Infos: []store.Info{testInfo(t, fmt.Sprint("new", i), testPath(t, "old"))}})
		if err := d.view(func(tx reader) error {
			if v := string(tx.get(bucketMeta, keyVersion)); v != schemaVersion {
				t.Errorf("version %q", v)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// More than the log has room for, at once and little by little.
func TestMoreThanTheLog(t *testing.T) {
	const pages = 256
	path := filepath.Join(t.TempDir(), "db.bolt")
	d, err := Open(path, testDir, Options{Create: true, rest: time.Hour, pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	add := func(count int) {
		t.Helper()
		var infos []store.Info
		for range count {
			infos = append(infos, testInfo(t, fmt.Sprint("p", n)))
			n++
		}
		register(t, d, Registration{Infos: infos})
	}
	add(1)
	add(5000)
	for range 2 * pages {
		add(1)
	}
	add(pages * logPage / 800)
	d.file.rest = 1
	add(1)
	if c, err := d.Count(); c != n || err != nil {
		t.Errorf("%d, want %d; %v", c, n, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, path)
	all, err := d.Names("", n+1)
	if err != nil || len(all) != n {
		t.Errorf("%d names, want %d; %v", len(all), n, err)
	}
}

// A file that cannot grow any more costs nothing that was answered, and what
// cannot be kept is refused.
func TestFullFile(t *testing.T) {
	const pages = 256
	path := filepath.Join(t.TempDir(), "db.bolt")
	d, err := Open(path, testDir, Options{Create: true, rest: time.Hour, pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	register(t, d, Registration{Infos: []store.Info{testInfo(t, "first")}})
	d.bolt.MaxSize = 1 // whatever it has is enough
	var kept []store.Info
	var refused error
	for i := 0; refused == nil; i++ {
		info := testInfo(t, fmt.Sprint("p", i))
		if refused = d.Register(context.Background(), Registration{Infos: []store.Info{info}}); refused == nil {
			kept = append(kept, info)
		}
		if i > 100_000 {
			t.Fatal("there is no end")
		}
	}
	if len(kept) < pages/2 {
		t.Errorf("refused after %d: %v", len(kept), refused)
	}
	if err := d.Close(); err == nil {
		t.Error("nobody was told")
	}
	d = open(t, path)
	for _, info := range kept {
		if ok, err := d.Valid(info.Path); !ok || err != nil {
			t.Fatalf("%s: valid %v, %v", info.Path, ok, err)
		}
	}
}

// What was killed can be opened on a full disk, and things be deleted, so that there
// is room again.
func TestFullDiskOpen(t *testing.T) {
	d, infos := begun(t, 5)
	path := filepath.Join(t.TempDir(), "db.bolt")
	for _, name := range []string{"", ".log"} {
		if err := os.WriteFile(path+name, read(t, d.path+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, disk, err := openFile(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d = newDB(b, disk, path, testDir, Options{})
	var full atomic.Bool
	full.Store(true)
	hookWrites(d, func(write writeAt, b []byte, off int64) (int, error) {
		if full.Load() {
			return 0, unix.ENOSPC
		}
		return write(b, off)
	})
	if err := d.restore(time.Hour, 64); err != nil {
		t.Fatal(err)
	}
	go d.commitLoop()
	t.Cleanup(func() { d.Close() })
	if gone, err := d.Delete(context.Background(), infos[4].Path); len(gone) != 1 || err != nil {
		t.Errorf("deleted %v, %v", gone, err)
	}
	for i, info := range infos {
		if ok, err := d.Valid(info.Path); ok != (i < 4) || err != nil {
			t.Errorf("%d is valid: %v, %v", i, ok, err)
		}
	}
	haveAll(t, read(t, path), path+".log", infos[:4]...)
	before, err := newest(disk)
	if err != nil {
		t.Fatal(err)
	}
	full.Store(false)
	waitFor(t, "the file", func() bool {
		n, err := newest(disk)
		return err == nil && n.txid > before.txid
	})
	haveAll(t, read(t, path), path+".log", infos[:4]...)
}

const killedFile = "STOREFS_TEST_KILLED_DB"

// registerForEver is the process that TestKilled kills.
func registerForEver(path string) error {
	d, err := Open(path, testDir, Options{Create: true, rest: 3 * time.Millisecond})
	if err != nil {
		return err
	}
	base := time.Now().UnixNano()
	errs := make(chan error)
	for w := range 3 {
		go func() {
			prev := []store.Path(nil)
			for i := 0; ; i++ {
				name := fmt.Sprintf("p-%d-%d-%d", base, w, i)
				p, err := store.TextPath(testDir, name, nil, nil)
				if err == nil {
					err = d.Register(context.Background(), Registration{Infos: []store.Info{{
						Path: p, Kind: store.KindDirectory, NarHash: store.HashOf(store.SHA256, nil), References: prev,
					}}})
				}
				if err != nil {
					errs <- err
					return
				}
				prev = []store.Path{p}
				fmt.Println(p)
			}
		}()
	}
	return <-errs
}

// Whatever a process that was killed had answered is there, and nothing of it
// contradicts itself.
func TestKilled(t *testing.T) {
	if path := os.Getenv(killedFile); path != "" {
		t.Fatal(registerForEver(path))
	}
	path := filepath.Join(t.TempDir(), "db.bolt")
	answered := 0
	for range 12 {
		c := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		c.Env = append(os.Environ(), killedFile+"="+path)
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		enough := 1 + rand.IntN(200)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines = append(lines, s.Text())
			if len(lines) == enough {
				time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
				_ = c.Process.Kill()
			}
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		if len(lines) > 0 && !strings.HasPrefix(lines[len(lines)-1], string(testDir)+"/") {
			t.Fatalf("it said %q", lines[len(lines)-1])
		}
		answered += len(lines)
		d, err := Open(path, testDir, Options{})
		if errors.Is(err, os.ErrNotExist) {
			continue // it was killed before it began
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range lines {
			if ok, err := d.Valid(store.Path(p)); !ok || err != nil {
				t.Errorf("%s was answered: valid %v, %v", p, ok, err)
			}
		}
		if err := d.Check(context.Background(), func(p store.Path, m string) { t.Errorf("%s: %s", p, m) }); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if answered == 0 {
		t.Error("nothing was ever answered")
	}
}

// No content of a log makes anything but changes or an error of it; and a record
// that is whole comes back as it was, or is an error.
func FuzzRedoLog(f *testing.F) {
	f.Add([]byte{}, encodeAll(randomRecord(3)))
	f.Add(make([]byte, 100), encodeAll([]change{{bucket: bucketValid, key: "a"}, {bucket: bucketTrails, key: "b", value: []byte{}}}))
	dir := memoryDir(f)
	f.Fuzz(func(t *testing.T, pages, body []byte) {
		path := filepath.Join(dir, fmt.Sprint("log", os.Getpid()))
		file := make([]byte, logPage, logPage+len(pages))
		p := position{page: 1, open: true}
		copy(file, logHead{p.salt, minPages}.encode())
		if err := os.WriteFile(path, append(file, pages...), 0o600); err != nil {
			t.Fatal(err)
		}
		l, _, err := openLog(path, &p, minPages)
		if err != nil {
			return
		}
		at := l.at(true)
		if _, now := l.fits(len(body)); now {
			if err := l.append(body); err != nil {
				t.Error(err)
			}
			at.seq = l.seq - 1
			want, wantErr := decodeChanges(body, l.seq)
			l.file.Close()
			again, got, err := openLog(path, &at, minPages)
			if (err == nil) != (wantErr == nil) || err == nil && !slices.EqualFunc(got, want, func(a, b change) bool {
				return a.bucket == b.bucket && a.key == b.key && bytes.Equal(a.value, b.value) && (a.value == nil) == (b.value == nil) && a.seq == b.seq
			}) {
				t.Errorf("%v, %v; want %v, %v", got, err, want, wantErr)
			}
			if err != nil {
				return
			}
			l = again
			if err := l.append(encodeAll(got)); err != nil && l.place(1) > 0 {
				t.Error(err)
			}
		}
		l.file.Close()
	})
}
