package buildertest

import (
	"fmt"
	"os"
	"strings"

	"storefs/builder"
	"storefs/store"
	"storefs/storeexpr"
)

// attributeTests are about what derivations ask of builders by attributes.
func attributeTests() tests {
	structured := func(w *World, name, json, script string) builder.Job {
		return w.Job(name, script, func(j *builder.Job) {
			j.Derivation.Env = nil
			Setenv(j.Derivation, "__json", json)
			j.Derivation.Args[1] = "PATH=" + string(w.Shell.Path) + "/bin; out=" + string(w.Path(name)) + "; " + script
		})
	}
	return tests{
		"passAsFile": func(w *World) {
			big := strings.Repeat("0123456789abcdef", 1<<14)
			r := w.Built(w.Job("pass-as-file", `[ -z "$big$small" ] && cat "$bigPath" "$smallPath" > $out; ls -A >&2`, func(j *builder.Job) {
				Setenv(j.Derivation, "big", big)
				Setenv(j.Derivation, "small", "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9")
				Setenv(j.Derivation, "passAsFile", "big small")
			}))
			if w.Text(r) != big+string(w.Path("pass-as-file")) {
				w.T.Error("the content is another")
			}
			log, err := os.ReadFile(r.LogFile)
			w.must(err)
			// sha256 of the names, in nixbase32, as Nix names them.
			w.same("files", string(log), ".attr-0c41b8ldiqfvr7ibjdm2gmaay20cdsvr5am6sim6r766pfxqxnw1\n.attr-1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a\n")
		},
		"structured attributes": func(w *World) {
			const json = `{"a b":1,"bool":true,"builder":"x","float":1.5,"list":["it's",2,null],"mixed":[[1]],"no":false,"nothing":null,"object":{"k 1":"v","k2":7},"text":"a\"b\\c\u0001/ü"}`
			r := w.Built(structured(w, "structured", json, `cat $NIX_ATTRS_JSON_FILE $NIX_ATTRS_SH_FILE > $out; echo $NIX_ATTRS_JSON_FILE $NIX_ATTRS_SH_FILE; env | grep -c __json; true`))
			out := string(w.Path("structured"))
			w.same("files", w.Text(r), strings.Replace(json, `"text"`, `"outputs":{"out":"`+out+`"},"text"`, 1)+
				"declare bool=1\ndeclare builder='x'\ndeclare -a list=('it'\\''s' 2 '' )\ndeclare no=\ndeclare nothing=''\n"+
				"declare -A object=(['k 1']='v' ['k2']=7 )\ndeclare -A outputs=(['out']='"+out+"' )\ndeclare text='a\"b\\c\x01/ü'\n")
			log, err := os.ReadFile(r.LogFile)
			w.must(err)
			w.same("names of the files", string(log), "/build/.attrs.json /build/.attrs.sh\n0\n")
		},
		"structured checks": func(w *World) {
			for checks, why := range map[string]string{
				`{"out":{"maxSize":10}}`:                     "(maxSize)",
				`{"out":{"maxClosureSize":1000}}`:            "(maxClosureSize)",
				`{"out":{"allowedReferences":[]}}`:           "(allowedReferences)",
				`{"out":{"disallowedRequisites":["SHELL"]}}`: "(disallowedRequisites)",
				`{"out":{"allowedRequisites":["SHELL"]}}`:    "(allowedRequisites)",
				`{"out":{"allowedReferences":1}}`:            "not a list",
				`{"out":{"allowedReferences":null}}`:         "(allowedReferences)",
				`{"out":{"disallowedReferences":"SHELL"}}`:   "(disallowedReferences)",
				`{"out":{"maxSize":"much"}}`:                 "not a number",
				`{"out":{"maxSize":10.5}}`:                   "(maxSize)",
				`{"out":{"maxSize":1e6,"maxClosureSize":1e30,"allowedReferences":{"a":"SHELL","b":"out"},"disallowedReferences":null}}`: "",
				`{"out":{"maxSize":100000,"allowedReferences":["SHELL","out"],"ignoreSelfRefs":true,"allowedRequisites":["SHELL"]}}`:    "",
				`{"dev":{"maxSize":1}}`: "",
			} {
				checks = strings.ReplaceAll(checks, "SHELL", string(w.Shell.Path))
				job := structured(w, "checked", `{"outputChecks":`+checks+`}`, `echo $PATH $out > $out`)
				if why == "" {
					w.Built(job)
				} else if f := w.Failed(job); !strings.Contains(f.Message, why) {
					w.T.Errorf("%s: %s", checks, f.Message)
				}
			}
		},
		"discarded references": func(w *World) {
			const script = `echo $PATH $out > $out`
			for discard, kept := range map[string]bool{`{"out":true}`: false, `{"out":false}`: true, `{"dev":true}`: true, `{}`: true} {
				job := structured(w, "discarded", `{"unsafeDiscardReferences":`+discard+`,"outputChecks":{"out":{"allowedReferences":["out","`+string(w.Shell.Path)+`"]}}}`, script)
				if refs := w.Built(job).Outputs[0].Info.References; len(refs) != map[bool]int{true: 2}[kept] {
					w.T.Errorf("%s: it refers to %v", discard, refs)
				}
			}
			job := structured(w, "discarded", `{"unsafeDiscardReferences":{"out":true},"outputChecks":{"out":{"allowedReferences":[]}}}`, script)
			if refs := w.Built(job).Outputs[0].Info.References; len(refs) > 0 {
				w.T.Errorf("it refers to %v", refs)
			}
			for _, wrong := range []string{`{"out":1}`, `["out"]`} {
				w.expect(w.Failed(structured(w, "discarded", `{"unsafeDiscardReferences":`+wrong+`}`, script)), store.CauseExpr, "unsafeDiscardReferences")
			}
		},
		"malformed structured attributes": func(w *World) {
			for _, json := range []string{`[1]`, `{"x":[1e400]}`, "{\"x\":\"a\xff\"}", `{} {}`} {
				w.expect(w.Failed(structured(w, "malformed", json, `true`)), store.CauseExpr, "__json")
			}
		},
		"exportReferencesGraph": func(w *World) {
			leaf := w.AddText("graph-leaf", "leaf")
			root := w.AddText("graph-root", "root", leaf.Path)
			made := w.AddText("graph-made", "made")
			drv := &storeexpr.Derivation{
				Outputs:  []storeexpr.Output{{Name: "out", Path: made.Path}, {Name: "unused", Path: w.Path("graph-unused")}},
				Platform: "x86_64-linux", Builder: "/bin/sh",
			}
			expr := w.AddText("graph.drv", string(drv.AppendText(nil)))
			job := w.Job("graph", `cat one two > $out`, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, leaf, root, made, expr)
				Setenv(j.Derivation, "exportReferencesGraph", "one "+string(root.Path)+" two "+string(expr.Path)+"/ignored")
			})
			one := fmt.Sprintf("%s\n\n1\n%s\n", root.Path, leaf.Path)
			end := fmt.Sprintf("%s\n\n0\n", leaf.Path)
			if leaf.Path < root.Path {
				one, end = end, one
			}
			a, b := fmt.Sprintf("%s\n\n0\n", expr.Path), fmt.Sprintf("%s\n\n0\n", made.Path)
			if b < a {
				a, b = b, a
			}
			w.same("graphs", w.Text(w.Built(job)), one+end+a+b)

			Setenv(job.Derivation, "exportReferencesGraph", "one "+string(w.Path("unknown")))
			w.expect(w.Failed(job), store.CauseExpr, "not in the closure")
			Setenv(job.Derivation, "exportReferencesGraph", "one")
			w.expect(w.Failed(job), store.CauseExpr, "pairs")
			Setenv(job.Derivation, "exportReferencesGraph", "../one "+string(root.Path))
			w.expect(w.Failed(job), store.CauseExpr, "file name")

			job = structured(w, "graph-json", `{"exportReferencesGraph":{"g":"`+string(leaf.Path)+`"}}`, `cat $NIX_ATTRS_JSON_FILE > $out`)
			job.Inputs = append(job.Inputs, leaf, root)
			w.same("graph", w.Text(w.Built(job)), fmt.Sprintf(
				`{"exportReferencesGraph":{"g":"%[1]s"},"g":[{"closureSize":%[2]d,"narHash":"%[3]s","narSize":%[2]d,"path":"%[1]s","references":[]}],"outputs":{"out":"%[4]s"}}`,
				leaf.Path, leaf.NarSize, leaf.NarHash, w.Path("graph-json")))
		},
		"refused": func(w *World) {
			for want, edit := range map[string]func(d *storeexpr.Derivation){
				"it is for riscv64-linux, and this is x86_64-linux":          func(d *storeexpr.Derivation) { d.Platform = "riscv64-linux" },
				"features {kvm, recursive-nix}, and this x86_64-linux has {": func(d *storeexpr.Derivation) { Setenv(d, "requiredSystemFeatures", "kvm big-parallel recursive-nix") },
				`builtin builder "unknown"`:                                  func(d *storeexpr.Derivation) { d.Builder, d.Platform = "builtin:unknown", "builtin" },
				"__noChroot":                                                 func(d *storeexpr.Derivation) { Setenv(d, "__noChroot", "1") },
				`"/etc/shadow" (__impureHostDeps)`:                           func(d *storeexpr.Derivation) { Setenv(d, "__impureHostDeps", " /etc/shadow ") },
			} {
				w.expect(w.Failed(w.Job("refused", `true`, func(j *builder.Job) { edit(j.Derivation) })), store.CauseRefused, want)
			}
			for _, flag := range []string{"__noChroot", "allowSubstitutes", "preferLocalBuild"} {
				w.expect(w.Failed(structured(w, "refused", `{"`+flag+`":"1"}`, `true`)), store.CauseExpr, "attribute "+flag+": not a Boolean")
			}
			w.expect(w.Failed(structured(w, "refused", `{"__impureHostDeps":["/etc/shadow"]}`, `true`)), store.CauseRefused, "__impureHostDeps")
			w.Built(structured(w, "not-refused", `{"__impureHostDeps":[],"__noChroot":false,"allowSubstitutes":false,"preferLocalBuild":true}`, `echo > $out`))
		},
		"a relative builder": func(w *World) {
			// It is found from the directory that the builder begins in, and nowhere else.
			job := w.Job("relative", `echo $0 > $out`, func(j *builder.Job) {
				j.Derivation.Builder = "../build/.." + string(w.Shell.Path) + "/bin/sh"
			})
			w.same("name", w.Text(w.Built(job)), "sh\n")
			job.Derivation.Builder = "sh"
			w.expect(w.Failed(job), store.CauseBuilder, "cannot execute the builder sh: no such file or directory")
		},
		"i686": func(w *World) {
			job := w.Job("i686", `uname -m > $out; cat /proc/self/personality >> $out`, func(j *builder.Job) { j.Derivation.Platform = "i686-linux" })
			w.same("machine", w.Text(w.Built(job)), "i686\n00040008\n")
		},
	}
}
