package buildertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"storefs/builder"
	"storefs/store"
	"storefs/storeexpr"
)

// buildenvTests are about builtin:buildenv.
func buildenvTests() tests {
	// with is a package of one file, and of one in a directory that all have.
	with := func(w *World, name string) store.Info {
		return w.Add(name, func(p string) {
			w.must(os.MkdirAll(filepath.Join(p, "bin"), 0o755))
			w.must(os.WriteFile(filepath.Join(p, "bin", name), []byte(name), 0o644))
			w.must(os.WriteFile(filepath.Join(p, name), []byte(name), 0o644))
		})
	}
	return tests{
		"user environment": func(w *World) {
			one, two, off := with(w, "one"), with(w, "two"), with(w, "off")
			job := w.UserEnvironment(fmt.Sprintf("true 5 1 %s true 5 1 %s\n\tfalse 1 1 %s", one.Path, two.Path, off.Path), one, two, off)
			for _, platform := range []string{"builtin", "riscv64-linux"} {
				job.Derivation.Platform = platform
				r := w.Built(job)
				out := r.Outputs[0]
				for name, want := range map[string]string{
					"one": string(one.Path) + "/one", "bin/one": string(one.Path) + "/bin/one", "bin/two": string(two.Path) + "/bin/two", "manifest.nix": string(w.Path("manifest")),
				} {
					got, err := os.Readlink(filepath.Join(out.Scratch, name))
					w.must(err)
					w.same(name, got, want)
				}
				w.same("references", fmt.Sprint(len(out.Info.References)), "3")
				log, err := os.ReadFile(r.LogFile)
				w.must(err)
				w.same("log", string(log), "")
			}
		},
		"user environment of many packages": func(w *World) {
			// More than an environment, or a variable, can have.
			one := with(w, "one")
			text := strings.Repeat(fmt.Sprintf("true 5 1 %s ", one.Path), 100_000)
			job := w.UserEnvironment(text, one)
			got, err := os.Readlink(filepath.Join(w.Built(job).Outputs[0].Scratch, "bin"))
			w.must(err)
			w.same("bin", got, string(one.Path)+"/bin")
		},
		"user environment, its warnings and sandbox": func(w *World) {
			odd := w.Add("odd", func(p string) {
				w.must(os.MkdirAll(p, 0o755))
				host, err := os.Executable()
				w.must(err)
				for name, target := range map[string]string{"host": host, "hidden": string(w.Shell.Path), "passwd": "/etc/passwd"} {
					w.must(os.Symlink(target, filepath.Join(p, name)))
				}
			})
			text := w.AddText("text", "")
			job := w.UserEnvironment(fmt.Sprintf("true 5 2 %s %s", odd.Path, text.Path), odd, text)
			r := w.Built(job)
			log, err := os.ReadFile(r.LogFile)
			w.must(err)
			out := string(r.Outputs[0].Info.Path)
			warnings := map[string]bool{
				"warning: skipping dangling symlink '" + out + "/hidden'":                                                 true,
				"warning: skipping dangling symlink '" + out + "/host'":                                                   true,
				"warning: not including '" + string(text.Path) + "' in the user environment because it's not a directory": true,
			}
			for line := range strings.Lines(string(log)) {
				if line = strings.TrimSuffix(line, "\n"); !warnings[line] {
					w.T.Errorf("log: %s", line)
				}
				delete(warnings, line)
			}
			if len(warnings) > 0 {
				w.T.Errorf("not in the log: %v", warnings)
			}
			if _, err := os.Lstat(filepath.Join(r.Outputs[0].Scratch, "passwd")); err != nil {
				w.T.Error(err)
			}
		},
		"user environment that cannot be": func(w *World) {
			one := with(w, "one")
			for text, why := range map[string]string{
				"true 5":                           "attribute 'derivations' is malformed: its last package has no number of paths",
				"true high 1 " + string(one.Path):  `attribute 'derivations' is malformed: priority "high": it is no number`,
				"true 5 2 " + string(one.Path):     "attribute 'derivations' is malformed: a package of 2 paths, and 1 words follow",
				"true 5 1 /no/such/path":           "opening directory '/no/such/path': no such file or directory",
				"true 5 1 " + string(w.Shell.Path): "opening directory '" + string(w.Shell.Path) + "': no such file or directory", // it is no input
			} {
				f := w.Failed(w.UserEnvironment(text, one))
				w.expect(f, store.CauseBuilder, "builder builtin:buildenv failed with exit status 1: "+why)
				w.same("log", strings.Join(f.Log, "\n"), why)
			}
			for _, name := range []string{"derivations", "manifest"} {
				job := w.UserEnvironment("", one)
				text, _ := job.Derivation.Getenv(name)
				job.Derivation.Env = nil
				Setenv(job.Derivation, map[string]string{"derivations": "manifest", "manifest": "derivations"}[name], text)
				w.expect(w.Failed(job), store.CauseExpr, "builtin:buildenv: its attribute "+name+" is missing")
			}
			job := w.UserEnvironment("", one)
			job.Derivation.Outputs[0].Name = "lib"
			w.expect(w.Failed(job), store.CauseExpr, "builtin:buildenv: it has no output out")
			job = w.UserEnvironment("", one)
			job.Derivation.Outputs = append(job.Derivation.Outputs, storeexpr.Output{Name: "zlib", Path: w.Path("zlib")})
			w.expect(w.Failed(job), store.CauseRefused, "did not make its output "+string(w.Path("zlib")))
		},
	}
}

// UserEnvironment is a job that makes one, by builtin:buildenv, of inputs and what its
// attribute derivations says of them.
func (w *World) UserEnvironment(derivations string, inputs ...store.Info) builder.Job {
	w.T.Helper()
	return w.Job("user-environment", "", func(j *builder.Job) {
		manifest := w.AddText("manifest", "[ ]")
		d := j.Derivation
		d.Builder, d.Platform, d.Args, d.Env = "builtin:buildenv", "builtin", nil, nil
		j.Inputs = append(inputs, manifest)
		Setenv(d, "derivations", derivations)
		Setenv(d, "manifest", string(manifest.Path))
	})
}
