package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// archiveName is what a package's derivation puts into its output.
const archiveName = "package.a"

// packageSpec is one package to compile.
type packageSpec struct {
	Path      string              `json:"path"`      // as the compiler calls it
	Source    string              `json:"source"`    // the directory of its files
	Go        []string            `json:"go"`        //
	Asm       []string            `json:"asm"`       //
	Objects   []string            `json:"objects"`   // .syso files: linked as they are
	Embed     map[string][]string `json:"embed"`     // pattern of a go:embed → files
	Imports   map[string]string   `json:"imports"`   // import path → output of that package
	ImportMap map[string]string   `json:"importMap"` // as written in the files → import path (vendored ones)
	AsmFlags  []string            `json:"asmFlags"`  //
	Flags     []string            `json:"flags"`     // more flags of the compiler
}

// compile does what `go build` does for one package: in the order in which
// the compiler and the assembler need each other's results.
func (b *build) compile(p *packageSpec) error {
	if err := writeImports(b.scratch("importcfg"), p.Imports, p.ImportMap); err != nil {
		return err
	}
	if err := os.Mkdir(b.out, 0o755); err != nil {
		return err
	}
	fmt.Printf("compile %s: %d Go files, %d of assembly, %d imports\n", p.Path, len(p.Go), len(p.Asm), len(p.Imports))
	archive := filepath.Join(b.out, archiveName)
	// No name of this build may get into the archive.
	trim := "-trimpath=" + p.Source + "=>" + p.Path + ";" + b.work + "=>"
	args := []string{
		"-o", archive, "-pack", trim, "-p", p.Path, "-buildid=", "-nolocalimports",
		"-importcfg", b.scratch("importcfg"),
	}
	args = append(args, p.Flags...)
	asm := append([]string{"-p", p.Path, trim, "-I", b.work, "-I", p.Source, "-I", filepath.Join(b.tools, "include")}, p.AsmFlags...)
	if len(p.Asm) > 0 {
		// The assembler says which functions it defines, and by which calling
		// convention; it includes go_asm.h, which the compiler writes later.
		if err := os.WriteFile(b.scratch("go_asm.h"), nil, 0o644); err != nil {
			return err
		}
		first := slices.Concat(asm, []string{"-gensymabis", "-o", b.scratch("symabis")}, under(p.Source, p.Asm))
		if err := b.tool("asm", first...); err != nil {
			return err
		}
		args = append(args, "-symabis", b.scratch("symabis"), "-asmhdr", b.scratch("go_asm.h"))
	}
	if len(p.Embed) > 0 {
		if err := writeEmbed(b.scratch("embedcfg"), p); err != nil {
			return err
		}
		args = append(args, "-embedcfg", b.scratch("embedcfg"))
	}
	if err := b.tool("compile", append(args, under(p.Source, p.Go)...)...); err != nil {
		return err
	}
	var objects []string
	for _, f := range p.Asm {
		o := b.scratch(strings.TrimSuffix(f, ".s") + ".o")
		if err := b.tool("asm", slices.Concat(asm, []string{"-o", o}, under(p.Source, []string{f}))...); err != nil {
			return err
		}
		objects = append(objects, o)
	}
	return pack(archive, append(objects, under(p.Source, p.Objects)...))
}

// writeImports tells the compiler, or the linker, where packages are.
func writeImports(name string, imports, importMap map[string]string) error {
	var s strings.Builder
	for _, from := range slices.Sorted(maps.Keys(importMap)) {
		fmt.Fprintf(&s, "importmap %s=%s\n", from, importMap[from])
	}
	for _, path := range slices.Sorted(maps.Keys(imports)) {
		fmt.Fprintf(&s, "packagefile %s=%s\n", path, filepath.Join(imports[path], archiveName))
	}
	return os.WriteFile(name, []byte(s.String()), 0o644)
}

// writeEmbed tells the compiler which files the patterns of go:embed stand
// for.
func writeEmbed(name string, p *packageSpec) error {
	cfg := struct {
		Patterns map[string][]string
		Files    map[string]string
	}{p.Embed, map[string]string{}}
	for _, files := range p.Embed {
		for _, f := range files {
			cfg.Files[f] = filepath.Join(p.Source, f)
		}
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

func under(dir string, names []string) []string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = filepath.Join(dir, n)
	}
	return list
}
