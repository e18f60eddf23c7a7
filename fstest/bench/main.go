// Command bench measures storefs beside a peer or a limit, in turns, in one
// run, and prints ratios: absolute times mean nothing on a shared machine.
//
//	go run ./fstest/bench -storefs bin/storefs [-runs 5] [-only mount,million,promotion,sandbox,engine,gostd,prefetch,upgrade] [-data auto] [-jobs 1000] [-nix 1] [-disk]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"storefs/builder"
)

// pair is one row: ours beside theirs, both run `runs` times in turns.
type pair struct {
	work, peer   string
	ours, theirs func() error
	before       func() error // not timed, before every run of ours; may be nil
	beforePeer   func() error // the same for theirs
	each         int          // both do so many things, and the row is about one; 0 is 1
	ourEach      int          // the same for ours alone
}

type bench struct {
	storefs string
	runs    int
	data    []string // of the mounts that are measured
	work    *regexp.Regexp
	paths   int    // in the part million
	jobs    int    // of the engine's graphs
	nixRuns int    // of each graph by Nix, which takes half a minute for 1,000 jobs
	self    string // this program
	headed  bool   // the head of the table of pairs is printed
	dir     string // scratch of this run, on disk
	fast    string // the same in memory: file systems distort what makes many files

	interrupted func() bool // nothing more is to be measured
}

func main() {
	builder.Child()
	storefs := flag.String("storefs", "bin/storefs", "the binary to measure")
	runs := flag.Int("runs", 5, "runs of each command, after one that is not counted")
	only := flag.String("only", "mount,million,promotion,sandbox,engine,gostd,prefetch,upgrade", "the parts to run")
	data := flag.String("data", "auto", "the part mount: the ways (mount --data) to measure, separated by commas")
	work := flag.String("work", "", "the parts mount and engine: a regular expression of the workloads (builds, instantiate, flat, order, parse, registration, scan, ingest, touch) to run")
	paths := flag.Int("paths", 1_000_000, "the part million: how many")
	jobs := flag.Int("jobs", 1000, "the part engine: derivations in a graph")
	nix := flag.Int("nix", 1, "the part engine: runs of each graph by Nix; 0: none")
	disk := flag.Bool("disk", false, "the part engine: keep outputs on disk, and not in memory")
	peer := flag.Bool("loopback", false, "only mount go-fuse's loopback: REAL DIR")
	flag.Parse()
	b := &bench{runs: *runs, data: strings.Split(*data, ","), paths: *paths, jobs: *jobs, nixRuns: *nix}
	var err error
	if *peer {
		err = loopback(flag.Arg(0), flag.Arg(1))
	} else {
		err = b.run(*storefs, *disk, *work, strings.Split(*only, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(storefs string, disk bool, work string, parts []string) (err error) {
	// Mounts and directories are not left behind. Whoever asks twice does not want to wait.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	context.AfterFunc(ctx, stop)
	b.interrupted = func() bool { return ctx.Err() != nil }
	if b.storefs, err = filepath.Abs(storefs); err != nil {
		return err
	}
	if b.work, err = regexp.Compile(work); err != nil {
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	// Sandboxes have a /tmp of their own: a store directory below it is made anew
	// in each of them, which no mount namespace survives.
	where := os.TempDir()
	if where == "/tmp" {
		where = "/var/tmp"
	}
	if b.dir, err = os.MkdirTemp(where, "storefs-bench-"); err != nil {
		return err
	}
	defer removeAll(b.dir)
	b.fast = b.dir
	if !disk {
		b.fast = filepath.Join(b.dir, "memory")
		if err := os.Mkdir(b.fast, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("storefs-bench", b.fast, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount a tmpfs for what is built (-disk does without): %w", err)
		}
		defer unix.Unmount(b.fast, unix.MNT_DETACH)
	}
	all := map[string]func() error{"mount": b.mount, "million": b.million, "promotion": b.promotion, "sandbox": b.sandbox, "engine": b.engine, "gostd": b.gostd, "prefetch": b.prefetch, "upgrade": b.upgrade}
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
// ratios pair by pair, of wall time and, where both are processes, of the time
// that they and all their children had a processor: that is less of a lottery on
// a machine with other work.
func (b *bench) measure(p pair, runs int) error {
	timed := func(before, f func() error, each int) (wall, cpu time.Duration, err error) {
		if before != nil {
			if err := before(); err != nil {
				return 0, 0, err
			}
		}
		start, used := time.Now(), childTime()
		err = f()
		n := time.Duration(max(1, each))
		return time.Since(start) / n, (childTime() - used) / n, err
	}
	var ours, theirs []time.Duration
	var ratios, ofCPU []float64
	for i := range runs + 1 {
		if b.interrupted() {
			return errors.New("interrupted")
		}
		a, ourCPU, err := timed(p.before, p.ours, max(p.each, p.ourEach))
		if err != nil {
			return fmt.Errorf("%s: %w", p.work, err)
		}
		c, theirCPU, err := timed(p.beforePeer, p.theirs, p.each)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", p.work, p.peer, err)
		}
		if i == 0 && runs > 1 {
			continue // warming up
		}
		ours, theirs = append(ours, a), append(theirs, c)
		ratios = append(ratios, a.Seconds()/c.Seconds())
		if ourCPU > 0 && theirCPU > 0 {
			ofCPU = append(ofCPU, ourCPU.Seconds()/theirCPU.Seconds())
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	slices.Sort(ratios)
	if !b.headed {
		b.headed = true
		fmt.Printf("%-44s %-26s %10s %10s %8s %-16s %s\n", "work", "peer", "ours ms", "peer ms", "ratio", "(min–max of pairs)", "of CPU time")
	}
	slices.Sort(ofCPU)
	cpu := "-"
	if len(ofCPU) > 0 {
		cpu = fmt.Sprintf("%.3f", ofCPU[len(ofCPU)/2])
	}
	spread := fmt.Sprintf("(%.3f–%.3f)", ratios[0], ratios[len(ratios)-1])
	fmt.Printf("%-44s %-26s %10s %10s %8.3f %-16s %s\n", p.work, p.peer,
		ms(ours[len(ours)/2]), ms(theirs[len(theirs)/2]), ratios[len(ratios)/2], spread, cpu)
	return nil
}

// childTime is how long the processes that were started here, and are reaped,
// had a processor.
func childTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ms is d in milliseconds, to three digits or the whole number.
func ms(d time.Duration) string {
	v := d.Seconds() * 1000
	switch {
	case v < 1:
		return fmt.Sprintf("%.4f", v)
	case v < 100:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// do runs a command with its output thrown away; a failure shows it.
func do(dir string, env []string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	// A pipe would wake this process for each line, in the place of what is measured.
	out, err := os.CreateTemp("", "storefs-bench-output-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, text)
	}
	return nil
}

func removeAll(dir string) {
	exec.Command("chmod", "-R", "u+w", dir).Run()
	os.RemoveAll(dir)
}
