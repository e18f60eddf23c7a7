package main

import (
	"bytes"
	"runtime"
	"testing"
	"time"
)

// It is kept while many builds end, and from the beginning on for a while.
func TestVigil(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	// Those of other tests have ended.
	for b := make([]byte, 1<<20); bytes.Contains(b[:runtime.Stack(b, true)], []byte("(*vigil).keep(")); {
		time.Sleep(time.Millisecond)
	}
	places := runtime.GOMAXPROCS(0)
	var v vigil
	isKept := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.kept
	}
	awaitEnd := func() {
		t.Helper()
		for end := time.Now().Add(time.Minute); isKept(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it is kept when no builds end any more")
			}
		}
		if got := runtime.GOMAXPROCS(0); got != places {
			t.Fatalf("%d goroutines run at a time, not %d as before", got, places)
		}
	}
	for range 2 {
		for range vigilBuilds - 1 {
			v.built()
		}
		if isKept() {
			t.Fatal("it is kept for few builds")
		}
		for inTime := false; !inTime; {
			begin := time.Now()
			for range vigilBuilds {
				v.built()
			}
			kept, got := isKept(), runtime.GOMAXPROCS(0)
			// Else the machine did something else, and they have not ended together.
			if inTime = time.Since(begin) < vigilTime; inTime && !kept {
				t.Fatal("it is not kept for many")
			}
			if inTime && got != places+1 {
				t.Fatalf("%d goroutines run at a time beside it, not %d", got-1, places)
			}
		}
		awaitEnd()
		time.Sleep(vigilTime) // the last of them are long ago
	}
	for inTime := false; !inTime; {
		begin := time.Now()
		v.begin()
		kept := isKept()
		if inTime = time.Since(begin) < vigilBegin; inTime && !kept {
			t.Fatal("it is not kept from the beginning on")
		}
	}
	awaitEnd()

	// Who has one place for goroutines needs it.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	v.begin()
	if isKept() {
		t.Error("it is kept in the place of everybody else")
	}
}
