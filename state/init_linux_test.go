package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"storefs/event"
)

// Who has the directory could have us write through links, or exchange what is in it.
func TestStateOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const theirs = "it belongs to uid 65534, and this is uid 0"
	top := memoryDir(t)
	dir, outside := filepath.Join(top, "state"), filepath.Join(top, "outside")
	for _, err := range []error{
		os.Mkdir(dir, 0o755),
		os.Chown(dir, 65534, 65534),
		os.WriteFile(outside, []byte("text"), 0o644),
		os.Symlink(outside, filepath.Join(dir, "config.json.new")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Init(dir, testStore); err == nil || !strings.HasSuffix(err.Error(), theirs) {
		t.Errorf("Init: %v", err)
	}
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, testStore); err != nil { // as one that was killed may have left it
		t.Fatal(err)
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "text" {
		t.Errorf("outside is %q, %v", text, err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(dir, Options{Events: new(event.Bus), Command: "test"}); err == nil || !strings.HasSuffix(err.Error(), theirs) {
		t.Errorf("Open: %v", err)
		if err == nil {
			s.Close()
		}
	}
}
