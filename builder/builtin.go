package builder

import (
	"maps"
	"os"
	"slices"
	"strings"

	"storefs/buildenv"
	"storefs/fetchurl"
	"storefs/store"
	"storefs/unpackchannel"
)

// Each is the argv[0] by which a process knows that it is that builtin builder, and where a
// sandbox for it has this program.
const (
	fetcherName  = "/" + ownDir + "/fetchurl"
	buildenvName = "/" + ownDir + "/buildenv"
	unpackerName = "/" + ownDir + "/unpack-channel"
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
	case "unpack-channel":
		b.builtin, err = b.unpacker()
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
	r := fetchurl.Request{URL: b.placeholders.replace(url), Output: string(output.Path)}
	var err error
	if r.Unpack, err = b.attrs.bool("unpack"); err != nil {
		return nil, err
	}
	if r.Executable, err = b.attrs.bool("executable"); err != nil {
		return nil, err
	}
	return &builtin{name: fetcherName, environ: r.Environ(os.Getenv)}, nil
}

// buildenv is builtin:buildenv.
func (b *build) buildenv() (*builtin, error) {
	var r buildenv.Request
	err := b.request(&r.Output, map[string]*string{"derivations": &r.Derivations, "manifest": &r.Manifest})
	return &builtin{name: buildenvName, input: r.Derivations, environ: r.Environ()}, err
}

// unpacker is builtin:unpack-channel.
func (b *build) unpacker() (*builtin, error) {
	var r unpackchannel.Request
	err := b.request(&r.Output, map[string]*string{"src": &r.Source, "channelName": &r.Name})
	return &builtin{name: unpackerName, environ: r.Environ()}, err
}

// request sets output to where a builtin builder is to make its only one, and others to
// attributes by their names. As in Nix, these are not structured ones.
func (b *build) request(output *string, others map[string]*string) error {
	d := b.job.Derivation
	for _, o := range d.Outputs {
		if o.Name == "out" {
			*output = string(o.Path)
		}
	}
	if *output == "" {
		return fail(store.CauseExpr, "%s: it has no output out", d.Builder)
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		text, ok := d.Getenv(name)
		if !ok {
			return fail(store.CauseExpr, "%s: its attribute %s is missing", d.Builder, name)
		}
		*others[name] = b.placeholders.replace(text)
	}
	return nil
}

// makeBuiltin makes of s one that runs the builtin builder.
func (b *build) makeBuiltin(s *spec) {
	s.Own, s.OwnInput = true, []byte(b.builtin.input)
	s.Builder, s.Args = []byte(b.builtin.name), []string{b.builtin.name}
	s.Env = b.builtin.environ
}
