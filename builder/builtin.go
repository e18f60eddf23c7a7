package builder

import (
	"os"
	"strings"

	"storefs/fetchurl"
	"storefs/store"
)

// fetcherName is the argv[0] by which a process knows that it is builtin:fetchurl, and
// where a sandbox for that has this program.
const fetcherName = "/" + ownDir + "/fetchurl"

// acceptBuiltin is accept for a derivation whose builder is builtin:name.
func (b *build) acceptBuiltin(name string) error {
	if name != "fetchurl" {
		return fail(store.CauseRefused, "it needs the builtin builder %q, which is not provided", name)
	}
	output, fixed := b.job.Derivation.Fixed()
	if !fixed {
		return fail(store.CauseRefused, "builtin:fetchurl must be a fixed-output derivation")
	}
	url, ok := b.attrs.text("url")
	if !ok || strings.Contains(url, "\x00") {
		return fail(store.CauseExpr, "builtin:fetchurl: its attribute url is missing, or no text")
	}
	b.fetch = &fetchurl.Request{
		URL:        b.placeholders.replace(url),
		Output:     string(output.Path),
		Unpack:     b.attrs.bool("unpack"),
		Executable: b.attrs.bool("executable"),
	}
	return nil
}

// makeFetcher makes of s, which is a fixed output's, one that runs builtin:fetchurl. As
// in Nix, proxies are those of our own environment, and what the derivation says of that
// (impureEnvVars) is nothing to it.
func (b *build) makeFetcher(s *spec) {
	s.Own = true
	s.Builder, s.Args = []byte(fetcherName), []string{fetcherName}
	s.Env = b.fetch.Environ(os.Getenv)
}
