package main

import (
	"os"
	"path/filepath"
)

// programSpec is one program to link.
type programSpec struct {
	Name     string            `json:"name"`     // of the file in $out/bin
	Main     string            `json:"main"`     // output of package main
	Packages map[string]string `json:"packages"` // import path → output: all that main needs, directly or not
}

func (b *build) link(p *programSpec) error {
	if err := writeImports(b.scratch("importcfg.link"), p.Packages, nil); err != nil {
		return err
	}
	bin := filepath.Join(b.out, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	return b.tool("link", "-o", filepath.Join(bin, p.Name), "-importcfg", b.scratch("importcfg.link"),
		"-buildmode=exe", "-buildid=", filepath.Join(p.Main, archiveName))
}
