package builder_test

import (
	"fmt"
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
)

// BenchmarkBuild is a whole build of next to nothing, by the number of its inputs.
func BenchmarkBuild(b *testing.B) {
	for _, inputs := range []int{2, 100} {
		b.Run(fmt.Sprintf("inputs=%d", inputs), func(b *testing.B) {
			w := buildertest.NewWorld(b, local)
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
