package main

import (
	"runtime"
	"testing"
	"time"
)

// It is kept while many builds end, and from the beginning on for a while.
func TestVigil(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	time.Sleep(vigilBegin + 2*vigilTime) // those of other tests have ended
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
		for range vigilBuilds {
			v.built()
		}
		if !isKept() {
			t.Fatal("it is not kept for many")
		}
		if got := runtime.GOMAXPROCS(0); got != places+1 {
			t.Fatalf("%d goroutines run at a time beside it, not %d", got-1, places)
		}
		awaitEnd()
		time.Sleep(vigilTime) // the last of them are long ago
	}
	v.begin()
	if !isKept() {
		t.Fatal("it is not kept from the beginning on")
	}
	awaitEnd()

	// Who has one place for goroutines needs it.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	v.begin()
	if isKept() {
		t.Error("it is kept in the place of everybody else")
	}
}
