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

// order: graphs of jobs that sleep, whose elders' durations are recorded, beside
// the least that each could take on two slots: the longest path of what the jobs
// sleep, or half of all of it. Every run is of another graph.
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
	instantiate := func(seed uint64, version int) (err error) {
		var text string
		text, least = sleepers(seed, version)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		drv, err = l.output("instantiate", file)
		return err
	}
	var seed uint64
	return b.measure(pair{
		work: "graphs of known durations, real, -j2", peer: "max(path, work ÷ 2)",
		before: func() error {
			seed++
			if err := instantiate(seed, 0); err != nil {
				return err
			}
			if err := l.run("build", "-j64", drv); err != nil { // sleeping, they are not in each other's way
				return err
			}
			return instantiate(seed, 1)
		},
		ours:   func() error { return l.run("build", "-j2", drv) },
		theirs: func() error { time.Sleep(least); return nil },
	}, b.runs)
}

// sleepers is a graph whose jobs are always the same for a seed, but for a version,
// and the least that it takes on two slots. Its durations are as builds have them,
// a few of them long: 50 ms at least, half a second on average.
func sleepers(seed uint64, version int) (text string, least time.Duration) {
	const n = 40
	r := rand.New(rand.NewPCG(seed, 4))
	var s strings.Builder
	fmt.Fprintf(&s, "tools = source(\"tools\")\ndef job(i, ms, needs):\n"+
		"    return derivation(name = \"sleeper-%d-%%d\" %% i, builder = tools + \"/bin/busybox\", args = [\"sh\", \"-c\", \"%%s/bin/busybox usleep %%d000; echo %d > $out\" %% (tools, ms)], env = {\"needs\": \" \".join([str(d) for d in needs])}, kind = \"regular\")\n", seed, version)
	var work, longest time.Duration
	path := make([]time.Duration, n)
	var all []string
	for i := range n {
		took := time.Duration(500*(0.1+r.ExpFloat64()*r.ExpFloat64())) * time.Millisecond
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
