package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"storefs/store"
)

// life is a database on such a disk, with those who use it.
type life struct {
	*DB
	disk *fakeDisk
	mu   sync.Mutex
	fate answers
	busy map[string]bool // somebody makes it another
}

// still calls do with what callers know, while none of them begins, or is answered.
func (l *life) still(do func(answers)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := maps.Clone(l.fate)
	for n := range l.busy {
		a[n] = unknown
	}
	do(a)
}

const group = "-group" // the other half of each name

// begin opens what a crash has left: power says that the machine lost its power,
// else only the owner was killed.
func begin(t *testing.T, seed uint64, c crash, power bool, j *journal) *life {
	t.Helper()
	path := filepath.Join(memoryDir(t), "db.bolt")
	k := &fakeDisk{
		path: path, rand: rand.New(rand.NewPCG(seed, 1)), rarity: []int{4, 60}[seed%2],
		log: map[int]difference{}, journal: j,
	}
	l := &life{disk: k, fate: c.answers, busy: map[string]bool{}}
	k.still = l.still
	if c.db == nil {
		d, err := Open(path, testDir, Options{Create: true, pages: 16})
		if err == nil {
			err = d.Close()
		}
		if err == nil {
			err = os.Truncate(path, 1<<20) // it will not grow, which would change its time
		}
		if err != nil {
			t.Fatal(err)
		}
		c.db, c.log = read(t, path), read(t, path+".log")
		power = true
	}
	k.db = bytes.Clone(c.db)
	shown, shownLog := c.db, c.log
	if !power {
		shown, shownLog, k.pending, k.log = c.shown, c.shownLog, c.pending, c.differs
	}
	for name, b := range map[string][]byte{path: shown, path + ".log": shownLog} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j.note("begun %s, power %v: %v %v; on disk: %v %v", c.where, power, fileOf(shown), logOf(shownLog), fileOf(c.db), logOf(c.log))
	k.age()
	b, disk, err := openFile(path, Options{})
	if err != nil {
		t.Fatalf("%s, power %v: %v", c.where, power, err)
	}
	k.whole = disk
	open := func() *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	k.bad, k.other = open(), open()
	k.assurable(true)
	var log, bad *os.File
	d := newDB(b, k.other, path, testDir, Options{Barrier: func() error { return k.barrier(l.DB, log, bad) }})
	l.DB = d
	k.calm = true
	hookWrites(d, k.write)
	if err := d.prepare(false); err != nil {
		t.Fatal(err)
	}
	if err := d.restore(time.Duration(1+k.rand.IntN(30))*time.Millisecond, 16); err != nil {
		t.Fatalf("%s, power %v: %v", c.where, power, err)
	}
	log = d.file.log.file
	if bad, err = os.Open(path + ".log"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bad.Close() })
	go d.commitLoop()
	return l
}

// check compares with what callers know.
func (l *life) check(t *testing.T, where string) {
	t.Helper()
	for n, want := range l.fate {
		a, err := l.Valid(testPath(t, n))
		b, err2 := l.Valid(testPath(t, n+group))
		if err != nil || err2 != nil || a != b {
			t.Errorf("%s: of %s, one half is valid: %v, the other: %v; %v, %v", where, n, a, b, err, err2)
		}
		if want != unknown && a != (want == present) {
			t.Errorf("%s: %s is valid: %v, but a caller was told the other", where, n, a)
		}
		l.fate[n] = absent
		if a {
			l.fate[n] = present
		}
	}
	checkAll(t, l.DB, nil)
}

// use registers and deletes for a while.
func (l *life) use(t *testing.T, seed uint64, writes int) {
	var all sync.WaitGroup
	for c := range 4 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(c)))
			for range writes {
				l.change(t, fmt.Sprint("p", c, "-", r.IntN(12)), r)
			}
		})
	}
	all.Wait()
}

func (l *life) change(t *testing.T, name string, r *rand.Rand) {
	ctx := context.Background()
	if r.IntN(20) == 0 {
		_ = l.SetMark(ctx, []string{"", "mark"}[r.IntN(2)])
	}
	l.mu.Lock()
	was := l.fate[name]
	l.mu.Unlock()
	if was == present && r.IntN(2) == 0 {
		l.delete(t, name)
		return
	}
	a, b := testInfo(t, name), testInfo(t, name+group)
	if r.IntN(2) == 0 {
		a.References = []store.Path{b.Path}
	}
	reg := Registration{Infos: []store.Info{a, b}}
	if r.IntN(12) == 0 {
		for i := range 100 { // more than the log takes
			reg.Infos = append(reg.Infos, testInfo(t, fmt.Sprint("with-", i)))
		}
	}
	l.make(t, name, present, func() error { return l.Register(ctx, reg) })
}

func (l *life) delete(t *testing.T, name string) {
	l.make(t, name, absent, func() error {
		_, err := l.Delete(context.Background(), testPath(t, name), testPath(t, name+group))
		return err
	})
}

// make has do make a name present or absent.
func (l *life) make(t *testing.T, name string, to fate, do func() error) {
	l.mu.Lock()
	was := l.fate[name]
	if was != to {
		l.busy[name] = true
	}
	l.disk.journal.note("%s is %v, and to be %v", name, was, to)
	l.mu.Unlock()
	err := do()
	told, e := l.Valid(testPath(t, name))
	if e != nil {
		t.Error(e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, name)
	switch {
	case was == to: // it stays so, whatever fails
	case err == nil:
		l.fate[name] = to
	case errors.Is(err, ErrInDoubt) && to == present && told:
		l.fate[name] = present
	case errors.Is(err, ErrInDoubt):
		l.fate[name] = unknown
	}
	l.disk.journal.note("%s is %v: %v", name, l.fate[name], err)
}

// Whatever fails, and whenever it ends: what was answered is there, what was refused
// is not, and nothing is there by halves.
func TestDiskFails(t *testing.T) {
	until := time.Now().Add(2 * time.Second)
	if s := os.Getenv("STOREFS_TEST_DISK_FAILS"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		until = time.Now().Add(d)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	counts := map[string]int{}
	for ; time.Now().Before(until) && !t.Failed(); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testDiskFails(t, seed, counts) })
	}
	t.Logf("%v", counts)
}

func testDiskFails(t *testing.T, seed uint64, counts map[string]int) {
	r := rand.New(rand.NewPCG(seed, 2))
	j := newJournal(t)
	c, power := crash{answers: answers{}}, true
	for n := range uint64(6) {
		l := begin(t, seed+n, c, power, j)
		l.check(t, fmt.Sprintf("%s, power %v", c.where, power))
		l.disk.mu.Lock()
		l.disk.calm, l.disk.wanted = false, r.IntN(4) > 0
		l.disk.mu.Unlock()
		l.use(t, seed+n, 5+r.IntN(20))
		closed := l.Close()
		k := l.disk
		k.mu.Lock()
		power = r.IntN(2) == 0
		if len(k.crashes) > 0 {
			c = k.crashes[0]
		} else {
			k.look()
			k.wanted = true
			for len(k.crashes) == 0 {
				k.crash(fmt.Sprint("closed ", closed == nil), nil, nil)
			}
			c = k.crashes[0]
		}
		k.mu.Unlock()
		counts[fmt.Sprintf("%s, power %v", c.where, power)]++
		if t.Failed() {
			return
		}
	}
}

// A crash is one moment, also where the committer goes on beside what is written into
// the file: what is deleted during it was not answered as present.
func TestDiskCrashIsOneMoment(t *testing.T) {
	for _, power := range []bool{false, true} {
		j := newJournal(t)
		l := begin(t, 1, crash{answers: answers{}}, true, j)
		for _, n := range []string{"p0", "p1"} { // the first one makes use of the log
			a, b := testInfo(t, n), testInfo(t, n+group)
			l.make(t, n, present, func() error {
				return l.Register(context.Background(), Registration{Infos: []store.Info{a, b}})
			})
		}
		var all sync.WaitGroup
		k := l.disk
		k.still = func(do func(answers)) {
			l.still(func(a answers) {
				all.Go(func() { l.delete(t, "p1") })
				if l.mu.TryLock() { // it does not wait
					l.mu.Unlock()
					all.Wait()
				}
				do(a)
			})
		}
		k.mu.Lock()
		for k.wanted = true; k.wanted; {
			k.crash("beside a deletion", nil, nil)
		}
		k.mu.Unlock()
		all.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		c := k.crashes[0]
		if c.answers["p1"] != present {
			t.Errorf("p1 was %v", c.answers["p1"])
		}
		l = begin(t, 1, c, power, j)
		l.check(t, fmt.Sprintf("power %v", power))
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
