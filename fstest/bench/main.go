// Command bench measures storefs beside a peer or a limit, in turns, in one
// run, and prints ratios: absolute times mean nothing on a shared machine.
//
//	go run ./fstest/bench -storefs bin/storefs [-runs 5] [-only mount,engine,gostd]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// pair is one row: ours beside theirs, both run `runs` times in turns.
type pair struct {
	work, peer   string
	ours, theirs func() error
	before       func() error // not timed, before every run of either; may be nil
}

type bench struct {
	storefs string
	runs    int
	dir     string // scratch of this run
}

func main() {
	storefs := flag.String("storefs", "bin/storefs", "the binary to measure")
	runs := flag.Int("runs", 5, "runs of each command, after one that is not counted")
	only := flag.String("only", "mount,engine,gostd", "the parts to run")
	flag.Parse()
	if err := run(*storefs, *runs, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(storefs string, runs int, parts []string) error {
	storefs, err := filepath.Abs(storefs)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "storefs-bench-")
	if err != nil {
		return err
	}
	defer removeAll(dir)
	b := &bench{storefs: storefs, runs: runs, dir: dir}
	all := map[string]func() error{"mount": b.mount, "engine": b.engine, "gostd": b.gostd}
	fmt.Printf("%-34s %-26s %10s %10s %8s %s\n", "work", "peer", "ours ms", "peer ms", "ratio", "(min–max of the pairs)")
	for _, name := range parts {
		part, ok := all[name]
		if !ok {
			return fmt.Errorf("no part %q", name)
		}
		if err := part(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// measure runs a pair and prints its row: medians, and the median of the
// ratios pair by pair.
func (b *bench) measure(p pair, runs int) error {
	timed := func(f func() error) (time.Duration, error) {
		if p.before != nil {
			if err := p.before(); err != nil {
				return 0, err
			}
		}
		start := time.Now()
		err := f()
		return time.Since(start), err
	}
	var ours, theirs []time.Duration
	var ratios []float64
	for i := range runs + 1 {
		a, err := timed(p.ours)
		if err != nil {
			return fmt.Errorf("%s: %w", p.work, err)
		}
		c, err := timed(p.theirs)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", p.work, p.peer, err)
		}
		if i == 0 && runs > 1 {
			continue // warming up
		}
		ours, theirs = append(ours, a), append(theirs, c)
		ratios = append(ratios, a.Seconds()/c.Seconds())
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	slices.Sort(ratios)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("%-34s %-26s %10.1f %10.1f %8.2f (%.2f–%.2f)\n", p.work, p.peer,
		ms(ours[len(ours)/2]), ms(theirs[len(theirs)/2]), ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
	return nil
}

// do runs a command with its output thrown away; a failure shows it.
func do(dir string, env []string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return nil
}

func removeAll(dir string) {
	exec.Command("chmod", "-R", "u+w", dir).Run()
	os.RemoveAll(dir)
}
