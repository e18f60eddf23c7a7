package builder

import (
	"os"
	"strings"

	"storefs/buildenv"
	"storefs/fetchurl"
	"storefs/store"
)

// Each is the argv[0] by which a process knows that it is that builtin builder, and where a
// sandbox for it has this program.
const (
	fetcherName  = "/" + ownDir + "/fetchurl"
	buildenvName = "/" + ownDir + "/buildenv"
)

// inputName is where such a sandbox has what may be too long for an environment.
const inputName = "/" + ownDir + "/input"

// builtin is a builder that is this program.
type builtin struct {
	name    string
	input   string // for inputName
	environ []string
}

// acceptBuiltin is accept for a derivation whose builder is builtin:name.
func (b *build) acceptBuiltin(name string) (err error) {
	switch name {
	case "fetchurl":
		b.builtin, err = b.fetcher()
	case "buildenv":
		b.builtin, err = b.buildenv()
	default:
		err = fail(store.CauseRefused, "it needs the builtin builder %q, which is not provided", name)
	}
	return err
}

// fetcher is builtin:fetchurl. As in Nix, proxies are those of our own environment, and
// what the derivation says of that (impureEnvVars) is nothing to it.
func (b *build) fetcher() (*builtin, error) {
	output, fixed := b.job.Derivation.Fixed()
	if !fixed {
		return nil, fail(store.CauseRefused, "builtin:fetchurl must be a fixed-output derivation")
	}
	url, ok := b.attrs.text("url")
	if !ok || strings.Contains(url, "\x00") {
		return nil, fail(store.CauseExpr, "builtin:fetchurl: its attribute url is missing, or no text")
	}
	r := fetchurl.Request{
		URL:        b.placeholders.replace(url),
		Output:     string(output.Path),
		Unpack:     b.attrs.bool("unpack"),
		Executable: b.attrs.bool("executable"),
	}
	return &builtin{name: fetcherName, environ: r.Environ(os.Getenv)}, nil
}

// buildenv is builtin:buildenv. As in Nix, it knows no structured attributes.
func (b *build) buildenv() (*builtin, error) {
	d := b.job.Derivation
	var r buildenv.Request
	for _, o := range d.Outputs {
		if o.Name == "out" {
			r.Output = string(o.Path)
		}
	}
	if r.Output == "" {
		return nil, fail(store.CauseExpr, "builtin:buildenv: it has no output out")
	}
	derivations, ok := d.Getenv("derivations")
	if !ok {
		return nil, fail(store.CauseExpr, "builtin:buildenv: its attribute derivations is missing")
	}
	manifest, ok := d.Getenv("manifest")
	if !ok {
		return nil, fail(store.CauseExpr, "builtin:buildenv: its attribute manifest is missing")
	}
	r.Derivations, r.Manifest = b.placeholders.replace(derivations), b.placeholders.replace(manifest)
	return &builtin{name: buildenvName, input: r.Derivations, environ: r.Environ()}, nil
}

// makeBuiltin makes of s one that runs the builtin builder.
func (b *build) makeBuiltin(s *spec) {
	s.Own, s.OwnInput = true, []byte(b.builtin.input)
	s.Builder, s.Args = []byte(b.builtin.name), []string{b.builtin.name}
	s.Env = b.builtin.environ
}
