package fs_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// requests runs a script and counts, by name, what the kernel asked the mount at
// dir meanwhile: as the kernel's own trace events tell.
func requests(t *testing.T, dir, script string, args ...string) map[string]int {
	t.Helper()
	if uid() != 0 {
		t.Skip("tracing needs root")
	}
	trace := traceInstance(t)
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(trace, file), []byte(text), 0o644); err != nil {
			missing(t, "no tracing of FUSE: "+err.Error())
		}
	}
	dev, err := sh(t, dir, `stat -c %d $S`)
	if err != nil {
		t.Fatal(dev, err)
	}
	write("trace_clock", "global")
	write("events/fuse/fuse_request_send/filter", "connection == "+dev)
	write("events/fuse/fuse_request_send/enable", "1")
	out, err := sh(t, dir, script, args...)
	write("events/fuse/fuse_request_send/enable", "0")
	if err != nil {
		t.Fatalf("%s: %q, %v", script, out, err)
	}
	b, err := os.ReadFile(filepath.Join(trace, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(b)) {
		// … fuse_request_send: connection 40 req 12 opcode 1 (FUSE_LOOKUP) len 92
		if _, rest, ok := strings.Cut(line, "(FUSE_"); ok {
			name, _, _ := strings.Cut(rest, ")")
			count[name]++
		}
	}
	return count
}

// traceInstance is a trace buffer of its own, until the end of the test.
func traceInstance(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("tracefs", root, "tracefs", 0, ""); err != nil {
		missing(t, "no tracefs: "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	instance := filepath.Join(root, "instances", "storefs-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(instance, 0o755); err != nil {
		missing(t, "no trace instances: "+err.Error())
	}
	t.Cleanup(func() { os.Remove(instance) })
	return instance
}
