package buildertest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"storefs/builder"
	"storefs/store"
)

// inputTests are about what a builder sees of the store.
func inputTests() tests {
	return tests{
		"inputs and nothing else": func(w *World) {
			w.AddText("stranger", "not an input")
			file := w.AddText("file", "a file\n")
			program := w.Add("program", func(p string) { w.must(os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755)) })
			dangling := w.Add("dangling", func(p string) { w.must(os.Symlink("/etc/shadow", p)) })
			r := w.Built(w.Job("seen", `ls $NIX_STORE > $out; cat $file; [ -x $program ] && readlink $dangling`, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, file, program, dangling)
				Setenv(j.Derivation, "file", string(file.Path))
				Setenv(j.Derivation, "program", string(program.Path))
				Setenv(j.Derivation, "dangling", string(dangling.Path))
			}))
			want := []string{
				w.Shell.Path.Base(), w.Probe.Path.Base(), file.Path.Base(), program.Path.Base(), dangling.Path.Base(),
				w.Path("seen").Base(), // the shell made it before ls looked
			}
			slices.Sort(want)
			w.same("store", w.Text(r), strings.Join(want, "\n")+"\n")
			log, err := os.ReadFile(r.LogFile)
			w.must(err)
			w.same("inputs", string(log), "a file\n/etc/shadow\n")
		},
		"inputs cannot be changed": func(w *World) {
			dir := w.Add("directory", func(p string) {
				w.must(os.Mkdir(p, 0o755))
				w.must(os.WriteFile(filepath.Join(p, "file"), []byte("as it was"), 0o644))
			})
			file := w.AddText("unchanged", "as it was")
			r := w.Built(w.Job("writer", `exec 2> $out
				echo x > $dir/new; echo x > $dir/file; chmod u+w $dir/file; rm -f $dir/file; mv $dir moved; touch $dir; ln $file hard
				echo x > $file; rm -f $file; chmod u+w $file; rm -rf $dir; mount -o remount,rw $dir; true`, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, dir, file)
				Setenv(j.Derivation, "dir", string(dir.Path))
				Setenv(j.Derivation, "file", string(file.Path))
			}))
			if n := strings.Count(w.Text(r), "\n"); n < 12 {
				w.T.Errorf("only %d complaints:\n%s", n, w.Text(r))
			}
			for _, p := range []string{dir.Path.Base() + "/file", file.Path.Base()} {
				text, err := os.ReadFile(filepath.Join(w.Options.Real, p))
				w.must(err)
				w.same(p, string(text), "as it was")
			}
		},
		"an input that is not there": func(w *World) {
			f := w.Failed(w.Job("without", `echo > $out`, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, store.Info{Path: w.Path("absent"), Kind: store.KindRegular})
			}))
			w.expect(f, store.CauseSystem, "absent")
			if !strings.HasSuffix(f.Message, ": storefs verify --repair mends it") {
				w.T.Errorf("message %q", f.Message)
			}
		},
		"many inputs": func(w *World) {
			var inputs []store.Info
			for i := range 200 {
				inputs = append(inputs, w.AddText("input-"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+string(rune('a'+i/26)), "text"))
			}
			w.Built(w.Job("many-inputs", `[ $(ls $NIX_STORE | wc -l) = 202 ] && cat $NIX_STORE/*-input-* | wc -c > $out`, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, inputs...)
			}))
		},
	}
}
