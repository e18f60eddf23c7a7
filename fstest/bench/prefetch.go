package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	prefetchHogs   = 40  // what is built in the background: a second of one CPU each
	prefetchWanted = 300 // what is asked for meanwhile, one after the other
)

// prefetch: how long who asks for a trivial build waits while others are built
// in the background, beside the same without these.
func (b *bench) prefetch() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox is not installed (make deps)")
	}
	dir := filepath.Join(b.dir, "prefetch")
	if err := os.MkdirAll(dir+"/tools/bin", 0o755); err != nil {
		return err
	}
	if err := do("/", nil, "cp", busybox, dir+"/tools/bin/busybox"); err != nil {
		return err
	}
	star := filepath.Join(dir, "a.star")
	// Until then the programs of the hogs end at once.
	hungry := time.Now().Add(10 * time.Second)
	if err := os.WriteFile(star, fmt.Appendf(nil, `tools = source("tools")
def job(name, script):
    return derivation(name = name, builder = tools + "/bin/busybox", args = ["sh", "-c", script], kind = "regular", env = {"busybox": tools + "/bin/busybox"})
key = job("key", "echo > $out")
hogs = [job("hog-%%d" %% i, "i=0; test $($busybox date +%%%%s) -ge %d || i=400000; while test $i -lt 400000; do i=$((i+1)); done; echo > $out") for i in range(%d)]
wanted = [job("wanted-%%d" %% i, "echo > $out") for i in range(%d)]
`, hungry.Unix(), prefetchHogs, prefetchWanted), 0o644); err != nil {
		return err
	}
	l, err := b.newLab("prefetch")
	if err != nil {
		return err
	}
	outputs := map[string][]string{}
	for _, target := range []string{"key", "hogs", "wanted"} {
		drvs, err := l.output("instantiate", star+":"+target)
		if err != nil {
			return err
		}
		outs, err := l.output(append([]string{"query", "outputs"}, strings.Fields(drvs)...)...)
		if err != nil {
			return err
		}
		outputs[target] = strings.Fields(outs)
	}
	program := func(paths ...string) error {
		argv := []string{dir + "/tools/bin/busybox", "sh", "-c", `for f in "$@"; do read x <$f; done`, "sh"}
		return do("/", nil, append(argv, paths...)...)
	}
	flags := []string{"--prefetch-jobs=2"}

	// The first run teaches.
	if err := l.mount(flags...); err != nil {
		return err
	}
	if err := program(slices.Concat(outputs["key"], outputs["hogs"])...); err != nil {
		return err
	}
	l.unmount()
	if time.Now().After(hungry) {
		return errors.New("the first run took too long")
	}
	time.Sleep(time.Until(hungry.Add(time.Second)))

	round := func(flags []string) ([]time.Duration, error) {
		// What was not built in the background is not there, and nothing of what
		// is wanted in the first round.
		_ = l.run(append([]string{"delete"}, slices.Concat(outputs["key"], outputs["wanted"])...)...)
		for _, p := range outputs["hogs"] {
			_ = l.run("delete", p)
		}
		if err := l.mount(flags...); err != nil {
			return nil, err
		}
		defer l.unmount()
		if err := program(outputs["key"]...); err != nil {
			return nil, err
		}
		time.Sleep(200 * time.Millisecond)
		var took []time.Duration
		for _, p := range outputs["wanted"] {
			start := time.Now()
			if _, err := os.Stat(p); err != nil {
				return nil, err
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took, nil
	}
	var medians, tails []float64
	var with, without []time.Duration
	for i := range max(b.runs, 3) + 1 {
		w, err := round(flags)
		if err != nil {
			return err
		}
		o, err := round(nil)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // warming up
		}
		with, without = append(with, w...), append(without, o...)
		at := func(d []time.Duration, q float64) float64 { return d[int(float64(len(d)-1)*q)].Seconds() }
		medians = append(medians, at(w, 0.5)/at(o, 0.5))
		tails = append(tails, at(w, 0.99)/at(o, 0.99))
	}
	slices.Sort(with)
	slices.Sort(without)
	for name, r := range map[string][]float64{"median": medians, "p99": tails} {
		q := map[string]float64{"median": 0.5, "p99": 0.99}[name]
		slices.Sort(r)
		ms := func(d []time.Duration) float64 {
			return float64(d[int(float64(len(d)-1)*q)].Microseconds()) / 1000
		}
		fmt.Printf("%-44s %-26s %10.1f %10.1f %8.2f (%.2f–%.2f), of all rounds together %.2f\n", "lookup beside prefetching, "+name, "nothing prefetched",
			ms(with), ms(without), r[len(r)/2], r[0], r[len(r)-1], ms(with)/ms(without))
	}
	return nil
}
