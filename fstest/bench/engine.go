package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// engine: 1,000 trivial derivations, sandboxed, hashed and durably
// registered, beside ninja, which runs the same program bare.
func (b *bench) engine() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox is not installed (make deps)")
	}
	if _, err := exec.LookPath("ninja"); err != nil {
		return fmt.Errorf("ninja is not installed (make deps)")
	}
	dir := filepath.Join(b.dir, "engine")
	if err := os.MkdirAll(dir+"/tools/bin", 0o755); err != nil {
		return err
	}
	if err := do("/", nil, "cp", busybox, dir+"/tools/bin/busybox"); err != nil {
		return err
	}
	const n = 1000
	shapes := map[string]func(i int) string{
		"wide":  func(int) string { return "" },
		"chain": func(i int) string { return fmt.Sprint(i - 1) },
	}
	for _, shape := range []string{"wide", "chain"} {
		var star, ninja strings.Builder
		star.WriteString("tools = source(\"tools\")\nall = []\nfor_each = []\n")
		fmt.Fprintf(&star, `def job(i, dep):
    env = {"dep": all[dep].out} if dep >= 0 else {}
    return derivation(name = "job-%%d" %% i, builder = tools + "/bin/busybox", args = ["sh", "-c", "echo %%d > $out" %% i], env = env, kind = "regular")
def jobs():
    for i in range(%d):
        all.append(job(i, i - 1 if %s else -1))
jobs()
default = derivation(name = "all", builder = tools + "/bin/busybox", args = ["sh", "-c", "echo > $out"], env = {"deps": " ".join([str(j) for j in all])}, kind = "regular")
`, n, map[string]string{"wide": "False", "chain": "True"}[shape])
		ninja.WriteString("rule job\n  command = " + busybox + " sh -c 'echo $out > $out'\n")
		var outs []string
		for i := range n {
			out := fmt.Sprintf("out/%d", i)
			dep := shapes[shape](i)
			if dep != "" && i > 0 {
				dep = " out/" + dep
			} else {
				dep = ""
			}
			fmt.Fprintf(&ninja, "build %s: job%s\n", out, dep)
			outs = append(outs, out)
		}
		fmt.Fprintf(&ninja, "build out/all: job %s\n", strings.Join(outs, " "))
		if err := os.WriteFile(dir+"/"+shape+".star", []byte(star.String()), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/"+shape+".ninja", []byte(ninja.String()), 0o644); err != nil {
			return err
		}
		run := 0
		var l *lab
		var drv string
		err := b.measure(pair{
			work: fmt.Sprintf("build, -j2: %d trivial, %s", n, shape), peer: "ninja -j2, no sandbox",
			before: func() error {
				if err := os.RemoveAll(dir + "/out"); err != nil {
					return err
				}
				run++
				var err error
				if l, err = b.newLab(fmt.Sprintf("engine-%s-%d", shape, run)); err != nil {
					return err
				}
				drv, err = l.output("instantiate", dir+"/"+shape+".star")
				return err
			},
			ours:   func() error { return l.run("build", "-j2", drv) },
			theirs: func() error { return do(dir, nil, "ninja", "-j2", "-f", shape+".ninja", "out/all") },
		}, b.runs)
		if err != nil {
			return err
		}
		// What stands already: the cost of asking.
		if err := b.measure(pair{
			work: fmt.Sprintf("no-op: %d trivial, %s", n, shape), peer: "ninja, no-op",
			ours:   func() error { return l.run("build", "-j2", drv) },
			theirs: func() error { return do(dir, nil, "ninja", "-j2", "-f", shape+".ninja", "out/all") },
		}, 0); err != nil {
			return err
		}
	}
	return nil
}
