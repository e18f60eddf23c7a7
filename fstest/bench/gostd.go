package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"storefs/store"
	"storefs/storeexpr"
)

// gostd: Go's standard library from nothing, sandboxed and registered, beside
// the same commands run bare by make.
func (b *bench) gostd() error {
	prepared := filepath.Join(b.dir, "gostd")
	if err := do(".", nil, "go", "run", "./examples/gostd/gen", prepared); err != nil {
		return err
	}
	star, err := filepath.Abs("examples/gostd/gostd.star")
	if err != nil {
		return err
	}
	instantiate := func(l *lab) (string, error) {
		return l.output("instantiate", star, "--arg", "gostd="+prepared)
	}
	// The commands are those of the derivations, with another directory in the
	// place of the store.
	first, err := b.newLab("gostd")
	if err != nil {
		return err
	}
	targets, err := instantiate(first)
	if err != nil {
		return err
	}
	all, err := first.output(append([]string{"query", "requisites"}, strings.Fields(targets)...)...)
	if err != nil {
		return err
	}
	var drvs []string
	for p := range strings.FieldsSeq(all) {
		if strings.HasSuffix(p, ".drv") {
			drvs = append(drvs, p)
		}
	}
	peer := filepath.Join(b.dir, "gostd-make")
	if err := first.makefile(peer, drvs); err != nil {
		return err
	}
	run := 0
	var l *lab
	return b.measure(pair{
		work: fmt.Sprintf("build, -j2: Go's std, %d derivations", len(drvs)), peer: "make -j2, no sandbox",
		before: func() error {
			run++
			var err error
			if l, err = b.newLab(fmt.Sprintf("gostd-%d", run)); err != nil {
				return err
			}
			_, err = instantiate(l)
			return err
		},
		ours: func() error { return l.run("build", "-j2", star, "--arg", "gostd="+prepared) },
		beforePeer: func() error {
			removeAll(peer + "/out")
			return os.MkdirAll(peer+"/out", 0o755)
		},
		theirs: func() error { return do(peer, nil, "make", "-s", "-j2", "all") },
	}, min(b.runs, 3))
}

// makefile writes what make needs to run the builders of drvs in dir: sources
// are links to the store's, outputs go to dir/out.
func (l *lab) makefile(dir string, drvs []string) error {
	if err := os.MkdirAll(dir+"/out", 0o755); err != nil {
		return err
	}
	real := filepath.Join(l.state, "real")
	outputs := map[store.Path]store.Path{} // derivation → its output
	parsed := map[store.Path]*storeexpr.Derivation{}
	for _, p := range drvs {
		text, err := os.ReadFile(filepath.Join(real, filepath.Base(p)))
		if err != nil {
			return err
		}
		e, err := storeexpr.Parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		d := e.(*storeexpr.Derivation)
		parsed[store.Path(p)], outputs[store.Path(p)] = d, d.Outputs[0].Path
	}
	// A store path becomes a path in dir: outputs below out/, sources beside it.
	var pairs []string
	for _, out := range outputs {
		pairs = append(pairs, string(out), dir+"/out/"+out.Base())
	}
	pairs = append(pairs, l.store+"/", real+"/")
	rewrite := strings.NewReplacer(pairs...)

	var mk, all strings.Builder
	for p, d := range parsed {
		script := "#!/bin/sh\nset -e\nexport TMPDIR=$(mktemp -d)\ntrap 'rm -rf $TMPDIR' EXIT\n"
		for _, v := range d.Env {
			script += "export " + v.Name + "='" + strings.ReplaceAll(rewrite.Replace(v.Value), "'", `'\''`) + "'\n"
		}
		script += rewrite.Replace(d.Builder) + " '" + strings.Join(d.Args, "' '") + "'\n"
		file := dir + "/" + p.Base() + ".sh"
		if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
			return err
		}
		fmt.Fprintf(&mk, "%s:", rewrite.Replace(string(outputs[p])))
		for _, in := range d.Inputs {
			fmt.Fprintf(&mk, " %s", rewrite.Replace(string(outputs[in.Path])))
		}
		fmt.Fprintf(&mk, "\n\t%s\n", file)
		fmt.Fprintf(&all, " %s", rewrite.Replace(string(outputs[p])))
	}
	return os.WriteFile(dir+"/Makefile", []byte("all:"+all.String()+"\n"+mk.String()), 0o644)
}
