// Command bench measures storefs beside a peer or a limit, in turns, in one
// run, and prints ratios: absolute times mean nothing on a shared machine.
//
//	go run ./fstest/bench -storefs bin/storefs [-runs 5] [-only mount,million,engine,gostd] [-data auto]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	data    []string // of the mounts that are measured
	work    *regexp.Regexp
	paths   int    // in the part million
	self    string // this program
	headed  bool   // the head of the table of pairs is printed
	dir     string // scratch of this run
}

func main() {
	storefs := flag.String("storefs", "bin/storefs", "the binary to measure")
	runs := flag.Int("runs", 5, "runs of each command, after one that is not counted")
	only := flag.String("only", "mount,million,engine,gostd", "the parts to run")
	data := flag.String("data", "auto", "the part mount: the ways (mount --data) to measure, separated by commas")
	work := flag.String("work", "", "the part mount: a regular expression of the workloads to run")
	paths := flag.Int("paths", 1_000_000, "the part million: how many")
	peer := flag.Bool("loopback", false, "only mount go-fuse's loopback: REAL DIR")
	flag.Parse()
	var err error
	if *peer {
		err = loopback(flag.Arg(0), flag.Arg(1))
	} else {
		err = run(*storefs, *runs, strings.Split(*only, ","), strings.Split(*data, ","), *work, *paths)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(storefs string, runs int, parts, data []string, work string, paths int) error {
	storefs, err := filepath.Abs(storefs)
	if err != nil {
		return err
	}
	workRE, err := regexp.Compile(work)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "storefs-bench-")
	if err != nil {
		return err
	}
	defer removeAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := &bench{storefs: storefs, runs: runs, data: data, work: workRE, paths: paths, self: self, dir: dir}
	all := map[string]func() error{"mount": b.mount, "million": b.million, "engine": b.engine, "gostd": b.gostd}
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
	if !b.headed {
		b.headed = true
		fmt.Printf("%-34s %-26s %10s %10s %8s %s\n", "work", "peer", "ours ms", "peer ms", "ratio", "(min–max of the pairs)")
	}
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
