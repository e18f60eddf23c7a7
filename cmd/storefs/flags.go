package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"storefs/builder"
)

// limitFlags end builds that go beyond them.
type limitFlags struct {
	Timeout       time.Duration `placeholder:"TIME" help:"End a build whose builder takes longer than this (90s, 1h30m), or whose outputs do to be read. 0: no limit."`
	MaxSilentTime time.Duration `placeholder:"TIME" help:"End a build that writes nothing for this long. 0: no limit."`
	MaxLogSize    size          `placeholder:"SIZE" help:"End a build that writes a longer log than this (64K, 10M). 0: no limit."`
}

func (f limitFlags) limits() builder.Limits {
	return builder.Limits{Timeout: f.Timeout, MaxSilent: f.MaxSilentTime, MaxLog: int64(f.MaxLogSize)}
}

func (f limitFlags) check() error {
	if f.Timeout < 0 || f.MaxSilentTime < 0 {
		return fmt.Errorf("--timeout and --max-silent-time must not be negative")
	}
	return nil
}

// sandboxFlags say what builders see of the host.
type sandboxFlags struct {
	SandboxPath []string `placeholder:"[INSIDE=]OUTSIDE" sep:"none" help:"Let all builders see this host path, read-only. What they make of it is not in any hash: for experiments only. May be repeated."`
	NoSpawner   bool     `help:"Make every sandbox by a new process of this program, which takes several times as long, and not by one that has prepared itself. Where that does not work, this is done anyway."`
}

func (f sandboxFlags) paths() ([]builder.SandboxPath, error) {
	var all []builder.SandboxPath
	for _, s := range f.SandboxPath {
		inside, outside, ok := strings.Cut(s, "=")
		if !ok {
			outside = inside
		}
		if !filepath.IsAbs(inside) || !filepath.IsAbs(outside) {
			return nil, badInputf("--sandbox-path=%s: not an absolute path", s)
		}
		all = append(all, builder.SandboxPath{Inside: inside, Outside: outside})
	}
	return all, nil
}

// present refuses what is not there: every build would fail with it.
func (f sandboxFlags) present() error {
	all, err := f.paths()
	if err != nil {
		return err
	}
	for _, p := range all {
		st, err := os.Stat(p.Outside)
		if err != nil {
			return badInputf("--sandbox-path: %s: %w", p.Outside, errors.Unwrap(err))
		}
		switch p.Inside {
		case "/build", "/dev", "/etc", "/proc", "/tmp":
			if !st.IsDir() {
				return badInputf("--sandbox-path: %s is a directory in every sandbox, and %s is none", p.Inside, p.Outside)
			}
		}
	}
	return nil
}

// jobsFlag is how many builders run at once.
type jobsFlag struct {
	Jobs int     `short:"j" placeholder:"N" help:"Run up to N builders at once; one whose derivation says __cores counts as so many. 0: as many as there are CPUs. [${jobs}]"`
	Load float64 `placeholder:"N" help:"Start no builder beside others while more than N tasks of the whole machine want a CPU. (While memory is short none is started either.) 0: no limit."`
}

func (f jobsFlag) check() error {
	if f.Jobs < 0 {
		return fmt.Errorf("--jobs=%d: must not be negative", f.Jobs)
	}
	if !(f.Load >= 0 && f.Load <= math.MaxFloat64) { // nor NaN
		return fmt.Errorf("--load=%g: must be a number that is not negative", f.Load)
	}
	return nil
}

// size is a number of bytes: 123, 64K, 10M, 1G.
type size int64

// UnmarshalText reads a number with an optional K, M or G.
func (s *size) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	if i := strings.IndexAny(number, "KMGkmg"); i >= 0 && i == len(number)-1 {
		shift = 10 * (1 + strings.IndexByte("kmg", number[i]|0x20))
		number = number[:i]
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is not a size (64K, 10M, 1G)", text)
	}
	*s = size(n << shift)
	return nil
}
