package builder

import (
	"strings"
	"testing"

	"storefs/store"
)

// How long a builder is silent is measured by a clock that nobody sets: one that is set
// forward would end builds, and one that is set back let them be silent for ever.
func TestSilenceIsMonotonic(t *testing.T) {
	drv, err := store.MakePath("/nix/store", "test", store.HashOf(store.SHA256, nil), "x.drv")
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t.TempDir(), Job{Drv: drv})
	for range 2 {
		if at := l.silentSince(); !strings.Contains(at.String(), " m=") { // so time says that it has such a reading
			t.Errorf("the last byte came at %v, of the wall clock alone", at)
		}
		l.stir()
	}
}
