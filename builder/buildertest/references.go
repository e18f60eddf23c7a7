package buildertest

import (
	"storefs/builder"
	"storefs/store"
	"storefs/storeexpr"
)

// referenceTests are about what outputs may refer to.
func referenceTests() tests {
	// job's output refers to itself and to middle, which refers to leaf; the
	// shell is an input that it does not refer to.
	job := func(w *World, attribute, value string) builder.Job {
		leaf := w.AddText("leaf", "leaf")
		middle := w.AddText("middle", "middle", leaf.Path)
		return w.Job("referring", `echo $out $middle > $out`, func(j *builder.Job) {
			j.Inputs = append(j.Inputs, leaf, middle)
			Setenv(j.Derivation, "middle", string(middle.Path))
			Setenv(j.Derivation, attribute, value)
		})
	}
	group := tests{
		"outputs that need each other": func(w *World) {
			f := w.Failed(w.Job("cycle", `echo $dev > $out; echo $out > $dev`, func(j *builder.Job) {
				j.Derivation.Outputs = []storeexpr.Output{{Name: "dev", Path: w.Path("cycle-dev")}, {Name: "out", Path: w.Path("cycle")}}
			}))
			w.expect(f, store.CauseCycle, string(w.Path("cycle-dev")+" → "+w.Path("cycle")+" → "+w.Path("cycle-dev")))
		},
		"illegal reference specifier": func(w *World) {
			w.expect(w.Failed(job(w, "allowedReferences", "out nonsense")), store.CauseExpr, `"nonsense"`)
		},
	}
	leaf := func(w *World) string { return string(w.Path("leaf")) }
	middle := func(w *World) string { return string(w.Path("middle")) }
	for name, c := range map[string]struct {
		attribute string
		good, bad func(w *World) string
	}{
		"allowedReferences": {
			"allowedReferences",
			func(w *World) string { return "out " + middle(w) },
			middle,
		},
		"allowedRequisites": {
			"allowedRequisites",
			func(w *World) string { return middle(w) + " " + leaf(w) },
			middle,
		},
		"disallowedReferences": {"disallowedReferences", leaf, middle},
		"disallowedRequisites": {"disallowedRequisites", func(w *World) string { return string(w.Shell.Path) }, leaf},
	} {
		group[name] = func(w *World) {
			w.Built(job(w, c.attribute, c.good(w)))
			w.expect(w.Failed(job(w, c.attribute, c.bad(w))), store.CauseRefused, "("+c.attribute+")")
		}
	}
	return group
}
