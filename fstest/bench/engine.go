package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"storefs/daemon"
	"storefs/store"
)

// engine: what the machine between a request and a registered output costs.
func (b *bench) engine() error {
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"builds", b.builds},
		{"instantiate", b.instantiate},
		{"flat", b.flat},
		{"order", b.order},
		{"parse", b.parse},
		{"registration", b.registration},
		{"scan", b.scan},
		{"ingest", b.ingest},
		{"touch", b.touch},
	} {
		if !b.work.MatchString(part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return err
		}
	}
	return nil
}

// builds: trivial derivations, sandboxed, hashed and durably registered, beside
// ninja, which runs the same program bare, and Nix with its sandbox.
func (b *bench) builds() error {
	if _, err := exec.LookPath("ninja"); err != nil {
		return fmt.Errorf("ninja is not installed (make deps)")
	}
	dir, busybox, err := b.tools()
	if err != nil {
		return err
	}
	for _, shape := range shapes {
		g := newGraph(shape.name, b.jobs, shape.needs)
		if err := g.write(dir, busybox); err != nil {
			return err
		}
		if err := b.buildGraph(dir, g); err != nil {
			return err
		}
	}
	return nil
}

// instantiate: the expressions of a graph, from a Starlark file, beside Nix, from a file
// in its language; and once more, when all are there.
func (b *bench) instantiate() error {
	if !haveNix() || b.nixRuns == 0 {
		return nil
	}
	dir, busybox, err := b.tools()
	if err != nil {
		return err
	}
	last := shapes[len(shapes)-1]
	g := newGraph(last.name, b.jobs, last.needs)
	if err := g.write(dir, busybox); err != nil {
		return err
	}
	var l *lab
	var n *nixLab
	file := filepath.Join(dir, g.name)
	p := pair{
		work: g.name + ", instantiate, a job", peer: "nix-instantiate", each: len(g.needs),
		before:     func() (err error) { l, err = b.newFastLab(g.name); return err },
		ours:       func() error { return l.run("instantiate", file+".star") },
		beforePeer: func() (err error) { n, err = b.newNixLab(g.name); return err },
		theirs:     func() error { _, err := n.instantiate(file + ".nix"); return err },
	}
	if err := b.measure(p, b.runs); err != nil {
		return err
	}
	p.work, p.before, p.beforePeer = g.name+", instantiate again, a job", nil, nil
	return b.measure(p, b.runs)
}

// tools makes a directory with the tools that jobs run, and tells where these
// came from.
func (b *bench) tools() (dir, busybox string, err error) {
	if busybox, err = exec.LookPath("busybox"); err != nil {
		return "", "", fmt.Errorf("busybox is not installed (make deps)")
	}
	dir = filepath.Join(b.fast, "engine")
	if err := os.MkdirAll(dir+"/tools/bin", 0o755); err != nil {
		return "", "", err
	}
	return dir, busybox, do("/", nil, "cp", busybox, dir+"/tools/bin/busybox")
}

func (b *bench) buildGraph(dir string, g graph) error {
	var l *lab
	var drv string
	file := filepath.Join(dir, g.name)
	ninja := func() error { return do(dir, nil, "ninja", "-j2", "-f", file+".ninja") }
	err := b.measure(pair{
		work: g.name + ", a job", peer: "ninja -j2, no sandbox", each: len(g.needs),
		before: func() (err error) {
			if l, err = b.newFastLab(g.name); err != nil {
				return err
			}
			drv, err = l.output("instantiate", file+".star")
			return err
		},
		ours:       func() error { return l.run("build", "-j2", drv) },
		beforePeer: func() error { return forgetNinja(dir) },
		theirs:     ninja,
	}, b.runs)
	if err != nil {
		return err
	}
	if haveNix() && b.nixRuns > 0 {
		if err := b.buildGraphAsNix(g, file); err != nil {
			return err
		}
	}
	return b.nothingToDo(l, g, drv, ninja)
}

// forgetNinja removes what ninja made in dir and what it remembers of it.
func forgetNinja(dir string) error {
	for _, old := range []string{"out", ".ninja_log", ".ninja_deps"} {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) buildGraphAsNix(g graph, file string) error {
	var l *lab
	var n *nixLab
	var ours, theirs string
	err := b.measure(pair{
		work: g.name + ", a job", peer: "nix-store -r -j2, sandbox", each: len(g.needs),
		before: func() (err error) {
			if l, err = b.newFastLab(g.name); err != nil {
				return err
			}
			ours, err = l.output("instantiate", file+".star")
			return err
		},
		ours: func() error { return l.run("build", "-j2", ours) },
		beforePeer: func() (err error) {
			if n, err = b.newNixLab(g.name); err != nil {
				return err
			}
			theirs, err = n.instantiate(file + ".nix")
			return err
		},
		theirs: func() error { return n.build(theirs) },
	}, b.nixRuns-1)
	if err != nil {
		return err
	}
	return b.measure(pair{
		work: g.name + ", all valid", peer: "nix-store -r",
		ours:   func() error { return l.run("build", ours) },
		theirs: func() error { return n.build(theirs) },
	}, b.runs)
}

// nothingToDo: what stands already. The cost of asking.
func (b *bench) nothingToDo(l *lab, g graph, drv string, ninja func() error) error {
	if err := b.measure(pair{
		work: g.name + ", all valid", peer: "ninja, nothing to do",
		ours:   func() error { return l.run("build", drv) },
		theirs: ninja,
	}, b.runs); err != nil {
		return err
	}
	// The same from a client of a running owner, without the start of a process:
	// the root, and every job of the graph as a target of its own.
	if err := l.mount(); err != nil {
		return err
	}
	defer l.unmount()
	ctx := context.Background()
	c, err := daemon.Dial(ctx, l.state+"/socket", false)
	if err != nil {
		return err
	}
	defer c.Close()
	graph, err := c.Graph(ctx, []store.Path{store.Path(drv)}, true)
	if err != nil {
		return err
	}
	all := make([]store.Path, len(graph.Nodes))
	for i, n := range graph.Nodes {
		all[i] = n.Path
	}
	ask := func(times int, targets ...store.Path) func() error {
		return func() error {
			for range times {
				if _, err := c.Realise(ctx, daemon.RealiseRequest{Targets: targets}, nil); err != nil {
					return err
				}
			}
			return nil
		}
	}
	const times = 100
	if err := b.measure(pair{
		work: g.name + ", root asked of an owner", peer: "ninja, nothing to do",
		ours: ask(times, store.Path(drv)), ourEach: times, theirs: ninja,
	}, b.runs); err != nil {
		return err
	}
	return b.measure(pair{
		work: g.name + ", all asked of an owner, a job", peer: "ninja, nothing to do",
		ours: ask(1, all...), theirs: ninja, each: len(all),
	}, b.runs)
}

// touch: the first lookup of a trivial output through the mount, beside the
// builder's command run bare.
func (b *bench) touch() error {
	const n = 100
	g := newGraph("touch", n, shapes[0].needs)
	dir, busybox, err := b.tools()
	if err != nil {
		return err
	}
	if err := g.write(dir, busybox); err != nil {
		return err
	}
	var l *lab
	var outs []string
	out := filepath.Join(dir, "touched")
	defer func() {
		if l != nil {
			l.unmount()
		}
	}()
	return b.measure(pair{
		work: "first touch of a trivial output", peer: "its command, bare", each: n,
		before: func() error {
			if l != nil {
				l.unmount()
			}
			var err error
			if l, err = b.newFastLab("touch"); err != nil {
				return err
			}
			drv, err := l.output("instantiate", filepath.Join(dir, g.name+".star"))
			if err != nil {
				return err
			}
			drvs, err := l.output("query", "references", drv)
			if err != nil {
				return err
			}
			outs = nil
			for d := range strings.FieldsSeq(drvs) {
				if strings.HasSuffix(d, ".drv") {
					o, err := l.output("query", "outputs", d)
					if err != nil {
						return err
					}
					outs = append(outs, o)
				}
			}
			return l.mount()
		},
		ours: func() error {
			for _, o := range outs {
				if _, err := os.ReadFile(o); err != nil {
					return err
				}
			}
			return nil
		},
		theirs: func() error {
			for range outs {
				if err := exec.Command(busybox, "sh", "-c", "echo 1 > "+out).Run(); err != nil {
					return err
				}
			}
			return nil
		},
	}, min(b.runs, 3))
}
