package builder_test

import (
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
)

func TestMain(m *testing.M) {
	builder.Child()
	m.Run()
}

// local opens the builder of this package.
func local(t testing.TB, o *builder.Options) buildertest.Builder {
	t.Helper()
	l, err := builder.New(*o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// ways are the ways in which a sandbox can come about.
func ways() map[string]func(o *builder.Options) {
	return map[string]func(o *builder.Options){
		"self":    func(o *builder.Options) { o.NoSpawner = true },
		"spawner": func(*builder.Options) {},
		"spare":   func(o *builder.Options) { o.Spare = o.Builds + ".spare" },
	}
}

func TestSuite(t *testing.T) {
	for way, edit := range ways() {
		if way == "spawner" {
			continue // it lies between the others, and most other tests go it
		}
		t.Run(way, func(t *testing.T) {
			buildertest.Run(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				o.Say = func(line string) { t.Error(line) }
				return local(t, o)
			})
		})
	}
}
