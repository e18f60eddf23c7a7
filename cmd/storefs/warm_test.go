package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// field is the number behind name in a file of /proc.
func field(t *testing.T, text, name string) (n int) {
	t.Helper()
	_, rest, found := strings.Cut(text, name+":")
	if _, err := fmt.Sscan(rest, &n); !found || err != nil {
		t.Fatalf("no %s: %v", name, err)
	}
	return n
}

func TestRoomForFiles(t *testing.T) {
	const again = "STOREFS_TEST_ROOM"
	if os.Getenv(again) == "" { // the test program's own table may be large already
		cmd := exec.Command(os.Args[0], "-test.run=^TestRoomForFiles$", "-test.v")
		cmd.Env = append(os.Environ(), again+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestRoomForFiles") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	size := func() int {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		return field(t, string(b), "FDSize")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	want := int(min(limit.Cur, roomForFiles))
	if size() >= want {
		t.Fatalf("there is room for %d files before", size())
	}
	makeRoomForFiles()
	if got := size(); got < want {
		t.Errorf("there is room for %d files, want %d", got, want)
	}
}

// All of the program is there once it has been read, as far as nobody writes to it.
func TestReadProgram(t *testing.T) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	if err := unix.Madvise(page, unix.MADV_POPULATE_READ); errors.Is(err, unix.EINVAL) {
		t.Skip("needs Linux 5.14")
	}
	readProgram()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(maps), " r-xp ")
	if !found {
		t.Fatal("no program")
	}
	if size, there := field(t, text, "Size"), field(t, text, "Rss"); there < size {
		t.Errorf("%d of %d kB are there", there, size)
	}
}
