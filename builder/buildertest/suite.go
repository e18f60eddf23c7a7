package buildertest

import (
	"maps"
	"os"
	"slices"
	"testing"

	"storefs/builder"
)

// tests are tests by name.
type tests map[string]func(w *World)

// Run runs the whole suite with the builder that open opens. The process must be
// one that may build: see builder.Child.
func Run(t *testing.T, open func(t testing.TB, o *builder.Options) Builder) {
	shared := NewWorld(t, open)
	for _, group := range []tests{
		sandboxTests(), inputTests(), outputTests(), fixedTests(), fetchTests(), buildenvTests(), unpackchannelTests(), referenceTests(),
		attributeTests(), failureTests(), limitTests(), hostileTests(),
	} {
		for _, name := range slices.Sorted(maps.Keys(group)) {
			t.Run(name, func(t *testing.T) {
				t.Cleanup(func() {
					if left, err := os.ReadDir(shared.Options.Builds); err != nil || len(left) > 0 {
						t.Errorf("scratch directories are left: %v %v", left, err)
					}
				})
				w := *shared
				w.T = t
				group[name](&w)
			})
		}
	}
}
