package builder_test

import (
	"fmt"
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
)

// BenchmarkBuild is a whole build of next to nothing, by how its sandbox is made
// and by the number of its inputs.
func BenchmarkBuild(b *testing.B) {
	for _, how := range []struct {
		name string
		edit func(o *builder.Options)
	}{
		{"self", func(o *builder.Options) { o.NoSpawner = true }},
		{"spawner", func(*builder.Options) {}},
		{"spare", func(o *builder.Options) { o.Spare = o.Builds + ".spare" }},
	} {
		for _, inputs := range []int{2, 100, 500, 2000} {
			b.Run(fmt.Sprintf("%s/inputs=%d", how.name, inputs), func(b *testing.B) {
				w := buildertest.NewWorld(b, func(t testing.TB, o *builder.Options) buildertest.Builder {
					how.edit(o)
					return local(t, o)
				})
				job := w.Job("trivial", `echo > $out`, func(j *builder.Job) {
					for i := len(j.Inputs); i < inputs; i++ {
						j.Inputs = append(j.Inputs, w.AddText(fmt.Sprintf("input-%d", i), "text"))
					}
				})
				for b.Loop() {
					r, err := w.Builder.Build(b.Context(), job)
					if err != nil {
						b.Fatal(err)
					}
					r.Release()
				}
			})
		}
	}
}
