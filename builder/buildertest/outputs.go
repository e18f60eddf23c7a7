package buildertest

import (
	"os"
	"path/filepath"
	"slices"

	"storefs/builder"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// outputTests are about what becomes of what a builder leaves.
func outputTests() tests {
	all := map[string]struct {
		script string
		kind   store.Kind
	}{
		"a directory":   {`mkdir $out; echo x > $out/x`, store.KindDirectory},
		"a file":        {`echo x > $out`, store.KindRegular},
		"an executable": {`echo x > $out; chmod +x $out`, store.KindExecutable},
		"a link":        {`ln -s /etc/passwd $out`, store.KindSymlink},
	}
	group := tests{
		"several outputs": func(w *World) {
			r := w.Built(w.Job("several", `mkdir $out $dev; echo $dev $probe > $dev/refs; ln -s $dev/bin $out/to; echo nothing > $doc`, func(j *builder.Job) {
				j.Derivation.Outputs = []storeexpr.Output{
					{Name: "dev", Path: w.Path("several-dev")}, {Name: "doc", Path: w.Path("several-doc")}, {Name: "out", Path: w.Path("several")},
				}
			}))
			refs := map[string][]store.Path{
				"dev": sorted(w.Path("several-dev"), w.Probe.Path), "doc": nil, "out": {w.Path("several-dev")},
			}
			for i, name := range []string{"dev", "doc", "out"} {
				o := r.Outputs[i]
				if o.Name != name || !slices.Equal(o.Info.References, refs[name]) {
					w.T.Errorf("output %s refers to %v, want %s and %v", o.Name, o.Info.References, name, refs[name])
				}
				if o.Info.Deriver != w.Path("several.drv") || o.Info.CA != "" {
					w.T.Errorf("info: %+v", o.Info)
				}
			}
		},
		"writable for others": func(w *World) {
			for _, script := range []string{`mkdir $out; chmod 775 $out`, `echo > $out; chmod 606 $out`} {
				w.expect(w.Failed(w.Job("writable", script, nil)), store.CauseRefused, "writable")
			}
			// What is inside does not matter.
			w.Built(w.Job("writable-inside", `mkdir $out $out/d; echo > $out/f; chmod 777 $out/d $out/f`, nil))
		},
		"canonical form": func(w *World) {
			r := w.Built(w.Job("canonical", `mkdir -p $out/a; echo x > $out/a/x; chmod 0600 $out/a/x; echo y > $out/y; chmod 700 $out/y; ln -s nowhere $out/l; chmod 0 $out/a`, nil))
			o := r.Outputs[0]
			for name, mode := range map[string]os.FileMode{".": 0o555, "a": 0o555, "a/x": 0o444, "y": 0o555} {
				info, err := os.Lstat(filepath.Join(o.Scratch, name))
				w.must(err)
				if info.Mode().Perm() != mode || info.ModTime().Unix() != 1 {
					w.T.Errorf("%s: %s %s", name, info.Mode(), info.ModTime())
				}
			}
			sum, err := nar.HashPath(w.T.Context(), o.Scratch)
			w.must(err)
			if sum.Hash != o.Info.NarHash || sum.Size != o.Info.NarSize {
				w.T.Errorf("info %+v, what is there %+v", o.Info, sum)
			}
		},
		"unreadable modes": func(w *World) {
			r := w.Built(w.Job("unreadable", `mkdir -p $out/d; echo x > $out/d/f; chmod 0 $out/d/f $out/d $out`, nil))
			if k := r.Outputs[0].Info.Kind; k != store.KindDirectory {
				w.T.Errorf("kind %s", k)
			}
		},
		"what else is in the store directory": func(w *World) {
			w.Built(w.Job("litter", `echo > $out; echo > $NIX_STORE/litter; mkdir -p $NIX_STORE/more/litter; chmod 0 $NIX_STORE/more; mkdir x; echo > x/y; chmod 0 x`, nil))
		},
		"the same bytes again": func(w *World) {
			job := w.Job("again", `mkdir $out; for i in 1 2 3; do echo $i > $out/$i; done; env > $out/env; ls -l /proc/self/exe > /dev/null`, nil)
			a, b := w.Built(job), w.Built(job)
			if a.Outputs[0].Info.NarHash != b.Outputs[0].Info.NarHash {
				w.T.Error("two builds differ")
			}
		},
		"closed output": func(w *World) {
			w.Built(w.Job("closed", `exec $probe deaf $out`, nil))
		},
		"release": func(w *World) {
			r := w.Built(w.Job("release", `mkdir -p $out/d/d $NIX_STORE/x/y; echo > $NIX_STORE/x/y/z; chmod 0 $NIX_STORE/x/y $NIX_STORE/x; chmod 0 /build`, nil))
			r.Release()
			if _, err := os.Lstat(r.Outputs[0].Scratch); !os.IsNotExist(err) {
				w.T.Errorf("the scratch directory is still there: %v", err)
			}
		},
	}
	for name, c := range all {
		group[name] = func(w *World) {
			object := "kind-" + string(c.kind)
			job := w.Job(object, c.script, func(j *builder.Job) {
				j.Kinds = map[store.Path]store.Kind{w.Path(object): c.kind}
			})
			if got := w.Built(job).Outputs[0].Info.Kind; got != c.kind {
				w.T.Errorf("kind %s, want %s", got, c.kind)
			}
			for _, other := range all {
				if other.kind == c.kind {
					continue
				}
				job.Kinds[w.Path(object)] = other.kind
				says := "was declared to be a"
				if other.kind == store.KindDirectory {
					says = "was declared to be a directory (as it is in Starlark where kind="
				}
				w.expect(w.Failed(job), store.CauseRefused, says)
			}
		}
	}
	return group
}

func sorted(paths ...store.Path) []store.Path {
	slices.Sort(paths)
	return paths
}
