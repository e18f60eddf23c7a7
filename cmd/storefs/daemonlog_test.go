package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// However much is written, the last of it is there, in two files, and no more than that.
func TestDaemonLogStaysShort(t *testing.T) {
	state := t.TempDir()
	file, err := os.OpenFile(logPath(state), os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	l := newDaemonLog(file, state)
	l.max = 4000
	var all strings.Builder
	for i := range 10_000 {
		line := fmt.Sprintf("[%d] built something\n", i)
		all.WriteString(line)
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if st, err := file.Stat(); err != nil || st.Size() > l.max*5/4 {
			t.Fatalf("%d bytes, %v", st.Size(), err)
		}
	}
	old, err := os.ReadFile(l.old)
	if err != nil {
		t.Fatal(err)
	}
	young, err := os.ReadFile(logPath(state))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(old)) < l.max || !strings.HasSuffix(all.String(), string(old)+string(young)) {
		t.Errorf("old:\n%s\nyoung:\n%s", old, young)
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Only what is the log of the state itself is shortened, and so it is when a mount begins.
func TestOnlyTheDaemonLogIsShortened(t *testing.T) {
	state := t.TempDir()
	for _, name := range []string{logPath(state), state + "/mine"} {
		if err := os.WriteFile(name, []byte(strings.Repeat("x", maxLog)), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(name, os.O_APPEND|os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		a := &app{stderr: file}
		a.State = state
		if _, err := messages(a).Write([]byte("y")); err != nil {
			t.Fatal(err)
		}
		st, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		want := int64(1)
		if name != logPath(state) {
			want += maxLog
		}
		if st.Size() != want {
			t.Errorf("%s: %d bytes, want %d", name, st.Size(), want)
		}
	}
}
