// Driver is the builder of gostd's derivations: it runs Go's compiler,
// assembler and linker as the go command would, without the go command, a
// shell or anything else of a host. It is a static program, and goes into the
// store together with the tools that it runs.
//
// Usage, in the environment of a derivation:
//
//	driver package   compile $spec into $out/package.a
//	driver program   link $spec into $out/bin/NAME
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("want one argument, package or program")
	}
	b := &build{out: os.Getenv("out"), work: os.Getenv("TMPDIR")}
	if b.out == "" || b.work == "" {
		return errors.New("out and TMPDIR must be set: this is the builder of a derivation")
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	b.tools = filepath.Dir(filepath.Dir(exe))
	spec := []byte(os.Getenv("spec"))
	switch args[0] {
	case "package":
		return decode(spec, b.compile)
	case "program":
		return decode(spec, b.link)
	}
	return fmt.Errorf("unknown argument %q", args[0])
}

func decode[T any](data []byte, use func(*T) error) error {
	var spec T
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("read $spec: %w", err)
	}
	return use(&spec)
}

// build is one run of the driver.
type build struct {
	tools string // the toolchain: bin/ and include/
	out   string // the output
	work  string // scratch
}

// tool runs one of the toolchain's programs in the scratch directory.
func (b *build) tool(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(b.tools, "bin", name), args...)
	cmd.Dir = b.work
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (b *build) scratch(name string) string { return filepath.Join(b.work, name) }
