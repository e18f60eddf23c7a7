package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// goInstall is the Go that runs this program.
type goInstall struct {
	Root    string `json:"GOROOT"`
	Tools   string `json:"GOTOOLDIR"`
	OS      string `json:"GOHOSTOS"`
	Arch    string `json:"GOHOSTARCH"`
	Version string `json:"GOVERSION"`
}

func findGo() (*goInstall, error) {
	g := &goInstall{}
	out, err := g.run("env", "-json", "GOROOT", "GOTOOLDIR", "GOHOSTOS", "GOHOSTARCH", "GOVERSION")
	if err == nil {
		err = json.Unmarshal(out, g)
	}
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	return g, nil
}

// run calls the go command, with nothing of the user's own settings: the
// results must be those of any other user of this release.
func (g *goInstall) run(args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "GOROOT", "GOPATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOTOOLCHAIN":
			return false // where things are, not what they are
		}
		return strings.HasPrefix(name, "GO")
	})
	cmd.Env = append(cmd.Env, "GOENV=off", "CGO_ENABLED=0", "GOFLAGS=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out, nil
}

// writeToolchain copies the tools, the headers that assembly files include,
// and a driver built from the source beside this program.
func (g *goInstall) writeToolchain(dir string) error {
	bin := filepath.Join(dir, "bin")
	include := filepath.Join(dir, "include")
	for _, d := range []string{bin, include} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, tool := range []string{"compile", "asm", "link"} {
		from := filepath.Join(g.Tools, tool)
		static, err := isStatic(from)
		if err != nil {
			return err
		}
		if static {
			err = copyFile(filepath.Join(bin, tool), from, 0o755)
		} else { // some distributions link theirs to a libc, which no store has
			err = g.build(filepath.Join(bin, tool), "cmd/"+tool)
		}
		if err != nil {
			return err
		}
	}
	headers, err := filepath.Glob(filepath.Join(g.Root, "pkg", "include", "*.h"))
	if err != nil {
		return err
	}
	for _, h := range headers {
		if err := copyFile(filepath.Join(include, filepath.Base(h)), h, 0o644); err != nil {
			return err
		}
	}
	return g.build(filepath.Join(bin, "driver"), "storefs/examples/gostd/driver")
}

func (g *goInstall) build(to, pkg string) error {
	_, err := g.run("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", to, pkg)
	return err
}

// isStatic reports whether a program needs no interpreter, and so no library.
func isStatic(name string) (bool, error) {
	f, err := elf.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

func copyFile(to, from string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
