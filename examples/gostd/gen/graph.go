package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// graph is what gostd.star reads.
type graph struct {
	Version  string     `json:"version"`  // "go1.26.8"
	Lang     string     `json:"lang"`     // "go1.26"
	OS       string     `json:"os"`       //
	Arch     string     `json:"arch"`     //
	AsmFlags []string   `json:"asmFlags"` // what assembly files may ask of their machine
	Packages []*library `json:"packages"` // each after those that it imports
}

// library is one package.
type library struct {
	Path      string              `json:"path"`
	Dir       string              `json:"dir"`   // where its files are
	Files     []string            `json:"files"` // all that it is made of, relative to Dir
	Go        []string            `json:"go"`
	Asm       []string            `json:"asm,omitempty"`
	Objects   []string            `json:"objects,omitempty"`
	Embed     map[string][]string `json:"embed,omitempty"`
	Imports   []string            `json:"imports,omitempty"`
	ImportMap map[string]string   `json:"importMap,omitempty"`
	Deps      []string            `json:"deps,omitempty"` // imports of imports too
	Complete  bool                `json:"complete"`       // nothing is defined outside of its Go files
}

// listed is a package as `go list -json` shows it.
type listed struct {
	ImportPath    string
	Dir           string
	GoFiles       []string
	SFiles        []string
	HFiles        []string
	SysoFiles     []string
	CgoFiles      []string
	CFiles        []string
	EmbedPatterns []string
	EmbedFiles    []string
	Imports       []string
	Deps          []string
	ImportMap     map[string]string
	Incomplete    bool
}

func (g *goInstall) writeGraph(name string) error {
	out, err := g.run("list", "-deps", "-json=ImportPath,Dir,GoFiles,SFiles,HFiles,SysoFiles,CgoFiles,CFiles,EmbedPatterns,EmbedFiles,Imports,Deps,ImportMap,Incomplete", "std")
	if err != nil {
		return err
	}
	gr := graph{Version: g.Version, Lang: lang(g.Version), OS: g.OS, Arch: g.Arch}
	gr.AsmFlags = []string{"-D", "GOOS_" + g.OS, "-D", "GOARCH_" + g.Arch}
	switch g.Arch {
	case "amd64":
		gr.AsmFlags = append(gr.AsmFlags, "-D", "GOAMD64_v1")
	case "386":
		gr.AsmFlags = append(gr.AsmFlags, "-D", "GO386_sse2")
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read what go list says: %w", err)
		}
		if p.ImportPath == "unsafe" || len(p.GoFiles) == 0 {
			continue // built into the compiler; or nothing but tests
		}
		lib, err := newLibrary(&p)
		if err != nil {
			return fmt.Errorf("package %s: %w", p.ImportPath, err)
		}
		gr.Packages = append(gr.Packages, lib)
	}
	data, err := json.MarshalIndent(gr, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}

func newLibrary(p *listed) (*library, error) {
	if len(p.CgoFiles)+len(p.CFiles) > 0 || p.Incomplete {
		return nil, errors.New("it needs more than Go's own compiler and assembler")
	}
	// Distributions have GOROOT/src behind a link.
	dir, err := filepath.EvalSymlinks(p.Dir)
	if err != nil {
		return nil, err
	}
	headers, err := headersBelow(dir, slices.Concat(p.SFiles, p.HFiles))
	if err != nil {
		return nil, err
	}
	lib := &library{
		Path: p.ImportPath, Dir: dir, Go: p.GoFiles, Asm: p.SFiles, Objects: p.SysoFiles,
		Imports: packages(p.Imports), Deps: packages(p.Deps), ImportMap: p.ImportMap,
		Files:    slices.Concat(p.GoFiles, p.SFiles, p.HFiles, headers, p.SysoFiles, p.EmbedFiles),
		Complete: len(p.SFiles)+len(p.SysoFiles) == 0 && !hasForward(p.ImportPath),
	}
	for _, pattern := range p.EmbedPatterns {
		if lib.Embed == nil {
			lib.Embed = map[string][]string{}
		}
		lib.Embed[pattern] = embedded(pattern, p.EmbedFiles)
	}
	return lib, nil
}

// headersBelow finds the headers that assembly files include from directories
// below their own, which go list does not count among a package's files:
// runtime has some in runtime/cgo.
func headersBelow(dir string, files []string) ([]string, error) {
	include := regexp.MustCompile(`(?m)^#include "([^./"][^"]*/[^"]*)"`)
	var found []string
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return nil, err
		}
		for _, m := range include.FindAllSubmatch(text, -1) {
			if h := string(m[1]); !slices.Contains(found, h) {
				found = append(found, h)
			}
		}
	}
	return found, nil
}

// packages leaves out what is no package with an archive.
func packages(paths []string) []string {
	return slices.DeleteFunc(paths, func(p string) bool { return p == "unsafe" || p == "C" })
}

// embedded finds the files that a pattern of go:embed stands for. A directory
// stands for what is in it.
func embedded(pattern string, files []string) []string {
	pattern = strings.TrimPrefix(pattern, "all:")
	var found []string
	for _, f := range files {
		for at := f; at != "."; at = path.Dir(at) {
			if ok, _ := path.Match(pattern, at); ok {
				found = append(found, f)
				break
			}
		}
	}
	return found
}

// hasForward: these declare functions that package runtime defines behind
// their back (the go command has the same list).
func hasForward(path string) bool {
	switch path {
	case "bytes", "internal/poll", "net", "os", "runtime/metrics", "runtime/pprof", "runtime/trace", "sync", "syscall", "time":
		return true
	}
	return false
}

// lang is the language version of a release: "go1.26" of "go1.26.8" and of
// "go1.26rc1".
func lang(version string) string {
	version, _, _ = strings.Cut(version, " ")
	dots := 0
	for i, c := range version[len("go"):] {
		if c == '.' {
			dots++
		}
		if (c < '0' || c > '9') && c != '.' || dots == 2 {
			return version[:len("go")+i]
		}
	}
	return version
}
