package buildertest

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"

	"storefs/builder"
	"storefs/store"
)

// unpackchannelTests are about builtin:unpack-channel.
func unpackchannelTests() tests {
	channel := func(w *World, name string) builder.Job {
		return w.Job("channel", "", func(j *builder.Job) {
			var b bytes.Buffer
			t := tar.NewWriter(&b)
			w.must(t.WriteHeader(&tar.Header{Name: "top/default.nix", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3}))
			_, err := t.Write([]byte("{ }"))
			w.must(err)
			w.must(t.Close())
			archive := w.AddText("archive", b.String())
			j.Inputs = []store.Info{archive}
			d := j.Derivation
			d.Builder, d.Platform, d.Args, d.Env = "builtin:unpack-channel", "builtin", nil, nil
			Setenv(d, "src", string(archive.Path))
			Setenv(d, "channelName", name)
		})
	}
	return tests{
		"channel": func(w *World) {
			out := w.Built(channel(w, "nixpkgs")).Outputs[0]
			text, err := os.ReadFile(filepath.Join(out.Scratch, "nixpkgs", "default.nix"))
			w.must(err)
			w.same("default.nix", string(text), "{ }")
		},
		"channel that cannot be": func(w *World) {
			w.expect(w.Failed(channel(w, "a/b")), store.CauseBuilder, `builder builtin:unpack-channel failed with exit status 1: channelName "a/b" is no file name`)
			job := channel(w, "nixpkgs")
			Setenv(job.Derivation, "src", string(w.Shell.Path)) // it is no input
			w.expect(w.Failed(job), store.CauseBuilder, "no such file or directory")
			job = channel(w, "nixpkgs")
			job.Derivation.Env = nil
			w.expect(w.Failed(job), store.CauseExpr, "builtin:unpack-channel: its attribute channelName is missing")
		},
	}
}
