package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// flat: what a job costs among ten times as many.
func (b *bench) flat() error {
	dir, busybox, err := b.tools()
	if err != nil {
		return err
	}
	few, many := newGraph("layered", b.jobs, shapes[2].needs), newGraph("layered", 10*b.jobs, shapes[2].needs)
	var drv string
	var l *lab
	lab := func(g graph) func() error {
		return func() (err error) {
			if l, err = b.newFastLab("flat"); err != nil {
				return err
			}
			drv, err = l.output("instantiate", filepath.Join(dir, g.name+".star"))
			return err
		}
	}
	for _, g := range []graph{few, many} {
		if err := g.write(dir, busybox); err != nil {
			return err
		}
	}
	build := func() error { return l.run("build", "-j2", drv) }
	return b.measure(pair{
		work: many.name + ", a job", peer: few.name + ", a job",
		before: lab(many), ours: build, ourEach: len(many.needs),
		beforePeer: lab(few), theirs: build, each: len(few.needs),
	}, 1)
}

// order: a graph of jobs that sleep, whose elders' durations are recorded, beside
// the least that it could take on two slots: the longest path, or half of the
// work.
func (b *bench) order() error {
	dir, _, err := b.tools()
	if err != nil {
		return err
	}
	l, err := b.newFastLab("order")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "order.star")
	var drv string
	var least time.Duration
	version := 0
	instantiate := func() (err error) {
		version++
		var text string
		text, least = sleepers(version)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		drv, err = l.output("instantiate", file)
		return err
	}
	build := func() error { return l.run("build", "-j2", drv) }
	if err := instantiate(); err != nil {
		return err
	}
	if err := build(); err != nil {
		return err
	}
	return b.measure(pair{
		work: "a graph of known durations, real, -j2", peer: "max(path, work ÷ 2)",
		before: instantiate, ours: build,
		theirs: func() error { time.Sleep(least); return nil },
	}, min(b.runs, 3))
}

// sleepers is a graph whose jobs are always the same, but for a version, and the
// least that it takes on two slots.
func sleepers(version int) (text string, least time.Duration) {
	const n = 30
	r := rand.New(rand.NewPCG(3, 4))
	var s strings.Builder
	fmt.Fprintf(&s, "tools = source(\"tools\")\ndef job(i, ms, needs):\n"+
		"    return derivation(name = \"sleeper-%%d\" %% i, builder = tools + \"/bin/busybox\", args = [\"sh\", \"-c\", \"%%s/bin/busybox usleep %%d000; echo %d > $out\" %% (tools, ms)], env = {\"needs\": \" \".join([str(d) for d in needs])}, kind = \"regular\")\n", version)
	var work, longest time.Duration
	path := make([]time.Duration, n)
	var all []string
	for i := range n {
		took := time.Duration(50+r.IntN(350)) * time.Millisecond
		var needs []string
		if i > 3 {
			for _, in := range some(i, r.IntN(i), r.IntN(i)) {
				needs = append(needs, fmt.Sprint("j", in))
				path[i] = max(path[i], path[in])
			}
		}
		path[i] += took
		work += took
		longest = max(longest, path[i])
		fmt.Fprintf(&s, "j%d = job(%d, %d, [%s])\n", i, i, took.Milliseconds(), strings.Join(needs, ", "))
		all = append(all, fmt.Sprint("j", i))
	}
	fmt.Fprintf(&s, "default = job(%d, 0, [%s])\n", n, strings.Join(all, ", "))
	return s.String(), max(longest, work/2)
}
