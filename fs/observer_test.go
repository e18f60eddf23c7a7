package fs_test

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"

	"storefs/fs"
)

// fakeObserver notes who touched what, by command.
type fakeObserver struct {
	mu      sync.Mutex
	touched []string
}

func (o *fakeObserver) Touched(tid int, name string) {
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/comm")
	if err != nil {
		comm = []byte(err.Error())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.touched = append(o.touched, string(comm)+name)
}

func (o *fakeObserver) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.touched
	o.touched = nil
	slices.Sort(t)
	return slices.Compact(t)
}

// Who looks something up, or waits for it, is told of while it can be looked
// at; who lists the store touches nothing, and who may start nothing is not
// told of.
func TestObserver(t *testing.T) {
	s := newFakeStore(t)
	o := &fakeObserver{}
	dir, _ := mount(t, s, func(opts *fs.Options) {
		opts.Observer = o
		opts.Rules = []fs.Rule{{Callers: fs.Callers{Commands: []string{"head"}}, Permission: fs.MayNothing}}
	})
	a := s.add(name(1, "a"), recipe{make: regular("text")})
	b := s.add(name(2, "b"), recipe{make: tree})
	c := s.add(name(3, "c"), recipe{make: regular("text")})
	e, f := name(5, "e"), name(6, "f")
	d := s.add(name(4, "d"), recipe{make: regular("text"), hold: make(chan struct{})})
	expect := func(what string, want ...string) {
		t.Helper()
		if got := o.take(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	must(t, dir, `cat $S/$1`, "text", a)
	expect("the first touch", "cat\n"+a)
	must(t, dir, `ls $S | wc -l; cat $S/.storefs/status >/dev/null`, "1")
	expect("listing")
	for _, n := range []string{e, f} {
		if err := s.put(n, regular("text")); err != nil {
			t.Fatal(err)
		}
	}
	must(t, dir, `cat $S/$1; head $S/$2`, "texttext", e, f)
	expect("what is valid", "cat\n"+e)
	must(t, dir, `cat $S/$1/share/doc $S/$1/link`, "doc\ndoc", b)
	expect("below", "cat\n"+b)
	if out, err := sh(t, dir, `head $S/$1`, c); err == nil {
		t.Errorf("a denied command: %s", out)
	}
	expect("a denied command")
	_, wait := spawn(t, dir, `cat $S/$1`, d)
	until(t, "it waits", func() bool { return s.waiting() == 1 })
	expect("who waits", "cat\n"+d)
	s.finish(t)
	if err := wait(); err != nil {
		t.Error(err)
	}
}
