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
	return l
}

func TestSuite(t *testing.T) { buildertest.Run(t, local) }
