package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"storefs/db"
	"storefs/store"
)

// million: a store of very many paths: how soon it is mounted, how it is
// listed beside its own backing directory, and what the server remembers of
// paths that were looked up, then and when the kernel has forgotten them.
func (b *bench) million() error {
	l, err := b.newLab("million")
	if err != nil {
		return err
	}
	names, err := l.fill(b.paths)
	if err != nil {
		return err
	}
	real := filepath.Join(l.state, "real")
	mounted := func() (time.Duration, error) {
		start := time.Now()
		err := l.mount()
		return time.Since(start).Round(time.Millisecond), err
	}
	// Nobody has left it in order yet.
	unclean, err := mounted()
	if err != nil {
		return err
	}
	l.unmount()
	start := time.Now()
	d, err := db.Open(filepath.Join(l.state, "db.bolt"), store.Dir(l.store), db.Options{})
	if err != nil {
		return err
	}
	opened := time.Since(start)
	if err := d.Close(); err != nil {
		return err
	}
	clean, err := mounted()
	if err != nil {
		return err
	}
	defer l.unmount()
	fmt.Printf("%d valid paths: mounted in %v, as after a kill in %v; the database alone opens in %.2f ms\n", b.paths, clean, unclean, opened.Seconds()*1000)
	ls := func(dir string) func() error {
		return func() error { return do("/", nil, "sh", "-c", "ls -U "+dir+" | tail -n 1") }
	}
	if err := b.measure(pair{
		work: "list the store, first time", peer: "ls -U real",
		before: func() error { return dropCaches("2") }, beforePeer: func() error { return dropCaches("2") },
		ours: ls(l.store), theirs: ls(real),
	}, b.runs); err != nil {
		return err
	}
	if err := b.measure(pair{work: "list the store, warm", peer: "ls -U real", ours: ls(l.store), theirs: ls(real)}, b.runs); err != nil {
		return err
	}

	before, err := l.memory()
	if err != nil {
		return err
	}
	start = time.Now()
	var st unix.Stat_t
	for _, n := range names {
		if err := unix.Lstat(l.store+"/"+n, &st); err != nil {
			return fmt.Errorf("stat %s: %w", n, err)
		}
	}
	took := time.Since(start)
	peak, err := l.memory()
	if err != nil {
		return err
	}
	fmt.Printf("looked up %d paths, %.1f µs each: the server grows from %d to %d MB\n", len(names), float64(took.Microseconds())/float64(len(names)), before>>20, peak>>20)
	start = time.Now()
	for range 100 {
		if err := dropCaches("2"); err != nil {
			return err
		}
		now, err := l.memory()
		if err != nil {
			return err
		}
		if now < int64(b.paths)*150 {
			fmt.Printf("%d MB, %v after drop_caches began\n", now>>20, time.Since(start).Round(time.Millisecond))
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	now, err := l.memory()
	if err == nil {
		err = fmt.Errorf("still %d MB after drop_caches", now>>20)
	}
	return err
}

// fill makes n valid paths, which are empty files.
func (l *lab) fill(n int) ([]string, error) {
	names := make([]string, n)
	for i := range names {
		names[i] = store.HashOf(store.SHA256, strconv.AppendInt(nil, int64(i), 10)).Base32()[:store.DigestLen] + "-x" + strconv.Itoa(i)
	}
	real := filepath.Join(l.state, "real")
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < n; i += 2 {
				fd, err := unix.Open(real+"/"+names[i], unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o444)
				if err != nil {
					errs <- err
					return
				}
				unix.Close(fd)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	dir := store.Dir(l.store)
	d, err := db.Open(filepath.Join(l.state, "db.bolt"), dir, db.Options{})
	if err != nil {
		return nil, err
	}
	for from := 0; from < n; from += 20_000 {
		var infos []store.Info
		for _, name := range names[from:min(from+20_000, n)] {
			infos = append(infos, store.Info{
				Path: store.Path(l.store + "/" + name), Kind: store.KindRegular, NarSize: 112, Registered: 1,
				NarHash: store.HashOf(store.SHA256, []byte(name)),
			})
		}
		if err := d.Register(context.Background(), db.Registration{Infos: infos}); err != nil {
			return nil, err
		}
	}
	return names, d.Close()
}

// memory is what the server has in memory, in bytes, without pages of files
// (the database is mapped, and shared with the page cache).
func (l *lab) memory() (int64, error) {
	// The server is a child of the process that was started.
	owner, err := os.ReadFile(filepath.Join(l.state, "owner"))
	if err != nil {
		return 0, err
	}
	pid, _, _ := strings.Cut(string(owner), " ")
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no RssAnon in /proc/%s/status", pid)
}
