package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"storefs/daemon"
	"storefs/normaliser"
	"storefs/progress"
	"storefs/store"
)

type buildCmd struct {
	Installables []string `arg:"" name:"installable" help:"FILE.star[:TARGET], a store expression, an output path or a path below one, or a .drv or .store file."`

	KeepGoing      bool `short:"k" help:"When something failed, still build what does not need it."`
	KeepFailed     bool `help:"Keep the scratch directory of a build that fails, also of one that another command or a lookup began, and say where it is; delete removes it."`
	DryRun         bool `short:"n" xor:"check" help:"Say what would be built or substituted, and do nothing."`
	Check          bool `xor:"check" help:"Build what is realised already again, and compare (exit status 104 if it differs)."`
	PrintBuildLogs bool `short:"L" help:"Show what builders write."`

	argFlags
	jobsFlag
	limitFlags
	sandboxFlags
	reportFlags
}

func (*buildCmd) Help() string {
	return `Realises and prints the paths, one a line: for a store expression all of its outputs, for TARGET or an output path just that. What was realised before is not built again; what failed before is tried again.

The last line, if it took a while or with --explain or --profile, counts goals: built; reused, realised before; cut off, not realised before, but what it makes is there already, because what is new in it or below it makes no difference; substituted; failed. With --json they are "counts".

Where the store is mounted, or another command has it open, that process does the building: --jobs adds to its slots as long as this command runs, and takes none away; --load and --no-spawner are what that one was given. What is built has the limits, like --timeout, of the command that it was begun for, or those of the mount if that was a lookup; when it ends by them, it is begun anew for who waits for it too and has none that are as strict.

Ctrl-C cancels the builds that nobody else waits for.`
}

// Validate is for kong, which does not ask embedded structs.
func (c *buildCmd) Validate() error { return errors.Join(c.jobsFlag.check(), c.limitFlags.check()) }

func (c *buildCmd) Run(ctx context.Context, a *app) error {
	if err := c.present(); err != nil {
		return err
	}
	var trace *profile
	if !c.DryRun {
		var err error
		if trace, err = openProfile(ctx, c.Profile); err != nil {
			return err
		}
	}
	var unreported error // of a build that failed, which is what decides the status
	report := newReport(c.reportFlags)
	o := ownerOptions{role: "build", repeat: true, jobs: c.Jobs, load: c.Load, sandbox: c.sandboxFlags}
	err := a.connect(ctx, o, func(client *daemon.Client) (err error) {
		unreported = nil
		if report.broken && time.Since(report.start) >= progress.Delay {
			fmt.Fprintln(a.news(), "storefs: the process that had the store open has ended; going on with another one")
		}
		if len(c.SandboxPath) > 0 && !slices.Equal(c.SandboxPath, client.Hello().SandboxPaths) {
			h := client.Hello()
			return fmt.Errorf("build: storefs %s (pid %d) owns the store and does the building: give --sandbox-path to it", h.Role, h.PID)
		}
		wanted, err := a.installables(ctx, client, c.Installables, c.argFlags)
		if err != nil {
			return err
		}
		if c.DryRun {
			return c.plan(ctx, a, client, wanted)
		}
		unreported, err = c.build(ctx, a, client, wanted, report, trace)
		return err
	})
	if gone(err) && report.broken { // there is nobody who could be asked again
		report.answered(normaliser.Result{})
		if line := report.summary(); line != "" {
			fmt.Fprintln(a.news(), line)
		}
		if c.detailed() {
			unreported = fmt.Errorf("say where the time went: %w", daemon.ErrGone)
		}
	}
	unreported = errors.Join(unreported, trace.close())
	switch {
	case unreported == nil:
	case err == nil:
		err = unreported
	default:
		fmt.Fprintln(a.news(), "storefs: "+progress.Clean(unreported.Error()))
	}
	return err
}

func targets(wanted []installable) []store.Path {
	paths := make([]store.Path, len(wanted))
	for i, w := range wanted {
		paths[i] = w.target
	}
	return unique(paths)
}

// build realises what is wanted. What went wrong with the report of it is another
// error.
func (c *buildCmd) build(ctx context.Context, a *app, client *daemon.Client, wanted []installable, report *report, trace *profile) (unreported, err error) {
	// Whoever goes on although builds fail wants to look into the failures meanwhile;
	// otherwise the first one ends everything, and is told then.
	tails := c.KeepGoing && !c.PrintBuildLogs
	told := map[store.Path]bool{} // the derivations whose end of the log was shown
	meter := progress.Start(progress.For(a.stderr, a.news(), progress.Options{Logs: c.PrintBuildLogs, Tails: tails}))
	defer meter.Close()
	report.begin()
	res, err := client.Realise(ctx, daemon.RealiseRequest{
		Targets:    targets(wanted),
		KeepGoing:  c.KeepGoing,
		Jobs:       c.Jobs,
		Limits:     c.limits(),
		KeepFailed: c.KeepFailed,
		Check:      c.Check,
		Logs:       c.PrintBuildLogs,
		Details:    c.detailed(),
	}, func(s daemon.Seen) {
		if s.Event != nil {
			e := report.take(*s.Event)
			meter.Take(e)
			if f := e.Failure; tails && f != nil && f.Path == e.Goal && len(f.Log) > 0 {
				told[f.Path] = true
			}
		} else {
			meter.Expect(s.Remaining)
		}
	})
	meter.Close()
	if gone(err) && ctx.Err() == nil {
		report.broke()
		return nil, err
	}
	res.Counts = report.answered(res)
	if line := report.summary(); line != "" {
		meter.Say(line)
	}
	unreported = report.write(ctx, a, client, targets(wanted), c.Jobs, trace)
	if perr := c.print(a, wanted, res, filepath.Join(client.Hello().State, "real")); err == nil {
		err = perr
	}
	if err != nil && len(res.Failures) > 0 {
		err = &buildError{err, res.Failures, told, c.Check}
	}
	return unreported, err
}

// print prints what is realised, also when something else is not. It fails if a
// path below what is realised, which lies in the directory real, does not exist.
func (c *buildCmd) print(a *app, wanted []installable, res normaliser.Result, real string) error {
	var missing error
	byTarget := map[store.Path]normaliser.Target{}
	for _, t := range res.Targets {
		byTarget[t.Path] = t
	}
	lost := map[installable]bool{}
	for _, i := range wanted {
		if !byTarget[i.target].Realised || i.below == "" {
			continue
		}
		if err := existsBelow(filepath.Join(real, i.path.Base()), i.below); err != nil {
			lost[i] = true
			missing = errors.Join(missing, fmt.Errorf("build %s%s: %w", i.path, i.below, err))
		}
	}
	err := a.print(res, func(w io.Writer) {
		for _, i := range wanted {
			t := byTarget[i.target]
			switch {
			case !t.Realised, lost[i]:
			case i.path != "":
				fmt.Fprintln(w, string(i.path)+i.below)
			default:
				for _, p := range t.Paths {
					fmt.Fprintln(w, p)
				}
			}
		}
	})
	return errors.Join(missing, err)
}

// existsBelow looks for below in the object at path. Behind a link, which leads
// to where only the mount does, everything may exist.
func existsBelow(path, below string) error {
	for _, name := range strings.Split(strings.Trim(below, "/"), "/") {
		path = filepath.Join(path, name)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return nil
		}
	}
	return nil
}

func (c *buildCmd) plan(ctx context.Context, a *app, client *daemon.Client, wanted []installable) error {
	p, err := client.Plan(ctx, targets(wanted))
	if err != nil {
		return err
	}
	err = a.print(p, func(w io.Writer) {
		for _, drv := range p.Build {
			fmt.Fprintln(w, "build", drv)
		}
		for _, path := range p.Substitute {
			fmt.Fprintln(w, "substitute", path)
		}
	})
	if err == nil && len(p.Unknown) > 0 {
		err = fmt.Errorf("realise %s: %w", p.Unknown[0], store.ErrUnknown)
	}
	return err
}

// buildError is an error with its root causes.
type buildError struct {
	error
	failures []*store.Failure
	told     map[store.Path]bool // the derivations whose end of the log was shown before
	check    bool                // it was to be compared, and is realised: that is what why tells of it
}

// Unwrap gives the root causes, which is what is told and what decides the
// exit status.
func (e *buildError) Unwrap() []error {
	all := make([]error, len(e.failures))
	for i, f := range e.failures {
		all[i] = f
	}
	return all
}
