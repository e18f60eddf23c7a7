package builder

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// What is read once more, for its hash, is not read for longer than somebody waits for it.
func TestContentHashEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	fd, err := unix.Open(file, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 8<<40); err != nil { // read for hours
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, recursive := range []bool{false, true} {
		if _, err := contentHash(ctx, store.SHA512, recursive, Output{Scratch: file}); !errors.Is(err, context.Canceled) {
			t.Errorf("recursive %t: %v", recursive, err)
		}
	}
}
