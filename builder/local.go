package builder

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"storefs/event"
	"storefs/store"
)

// Options say where a Local builds and what it offers.
type Options struct {
	Store store.Dir // what builders see; never touched on the host, where it may be our own mount

	Real   string // where the store objects are, by base name
	Builds string // where scratch directories are made; on the file system of Real
	Logs   string // logs go to drvs/XX/REST.drv below it

	// SandboxPaths are host paths that every builder sees, read-only.
	SandboxPaths []SandboxPath
	// System is the platform that is built for: "x86_64-linux". "" is this
	// machine's.
	System string
	// ExtraPlatforms are others that this machine can run. nil stands for
	// i686-linux on x86_64-linux.
	ExtraPlatforms []string
	// Features are what derivations may require by requiredSystemFeatures. nil
	// stands for benchmark, big-parallel and nixos-test. With kvm, builders get
	// /dev/kvm.
	Features []string
	// Cores is what NIX_BUILD_CORES says. 0 is the number of processors.
	Cores int

	// Spare is a directory, on the file system of Builds, where scratch
	// directories are that wait, empty, for the next build, and come back from it:
	// to make and remove them can cost more than all the rest of a sandbox. Networks without a trace of a
	// build in them wait likewise. With "", each build has new ones. Nobody else
	// may use it, and what is left in it by a process that died is of no use.
	Spare string
	// NoSpawner makes every sandbox by a child that runs this program again,
	// and not by a spawner, which is a process that has prepared itself for it.
	// Where a spawner does not work, for sandboxes that see the host's network or
	// paths, and for builtin builders, that is done anyway: all sandboxes are alike.
	NoSpawner bool
	// Say is told, in a line, if no spawner could be started. nil: nobody is.
	Say func(line string)
}

// SandboxPath is a host path and where a sandbox shows it.
type SandboxPath struct {
	Inside string
	// Outside may be below the store directory: then it stands for the object
	// in Real, whether or not it is an input.
	Outside string
}

// Local builds on this machine, in sandboxes. Any number of builds may run at
// the same time.
type Local struct {
	opts      Options
	ids       identity
	binds     []bind
	scratches *scratches
	spawner   *spawnerKeeper
	memory    *shortages
	allowance func() allowance
	buffers   sync.Pool // of *logBuffer
}

// New checks and completes the options.
func New(o Options) (*Local, error) {
	if err := checkFilter(runtime.GOARCH); err != nil {
		return nil, fmt.Errorf("open builder: %w", err)
	}
	// Spare itself is made by the first build: on a full disk, what builds nothing
	// must go on, as a deletion that makes room.
	spare, name := filepath.Split(o.Spare)
	dirs := []*string{&o.Real, &o.Builds}
	if o.Spare != "" {
		dirs = append(dirs, &spare)
	}
	for _, dir := range dirs {
		// The child binds them by name: it should meet no links on its way.
		p, err := filepath.EvalSymlinks(*dir)
		if err == nil {
			p, err = filepath.Abs(p)
		}
		if err != nil {
			return nil, fmt.Errorf("open builder: %w", err)
		}
		*dir = p
	}
	if err := CheckStore(o.Store); err != nil {
		return nil, fmt.Errorf("open builder: %w", err)
	}
	if o.System == "" {
		o.System = hostSystem()
	}
	if o.ExtraPlatforms == nil && o.System == "x86_64-linux" {
		o.ExtraPlatforms = []string{"i686-linux"}
	}
	if o.Features == nil {
		o.Features = []string{"benchmark", "big-parallel", "nixos-test"}
	}
	if o.Cores == 0 {
		o.Cores = runtime.NumCPU()
	}
	l := &Local{opts: o, memory: &shortages{file: shortagesFile("/proc")}}
	for _, p := range o.SandboxPaths {
		b, err := l.bindOf(p)
		if err != nil {
			return nil, err
		}
		l.binds = append(l.binds, b)
	}
	var err error
	if l.ids, err = newIdentity(o.Real, o.Builds); err != nil {
		return nil, fmt.Errorf("open builder: %w", err)
	}
	l.allowance = sync.OnceValue(func() allowance { return allowanceOf(l.ids) })
	l.scratches = &scratches{dir: o.Builds, spare: o.Spare != "", real: o.Real, ids: l.ids}
	if o.Spare != "" {
		l.scratches.dir = filepath.Join(spare, name)
	}
	l.spawner = &spawnerKeeper{
		ids:   l.ids,
		start: l.startSpawner,
		off:   o.NoSpawner,
		say:   o.Say,
		config: spawnerConfig{
			Store: string(o.Store), Real: o.Real, Builds: l.scratches.dir,
			Devices: l.devices(),
			Spare:   o.Spare != "",
			Nobody:  l.ids.setgroups,
		},
	}
	l.scratches.gone = l.spawner.forget
	return l, nil
}

// CheckStore reports why builders could not see the store directory dir, nil if they can.
func CheckStore(dir store.Dir) error {
	if _, err := store.ParseDir(string(dir)); err != nil {
		return err
	}
	for _, own := range []string{"/dev", "/proc", "/etc"} {
		if string(dir) == own || strings.HasPrefix(string(dir), own+"/") {
			return fmt.Errorf("the store directory %s is in %s, which every sandbox has for itself: %w", dir, own, store.ErrBadPath)
		}
	}
	if dir == buildDir || dir == "/tmp" {
		return fmt.Errorf("the store directory: every sandbox has %s for itself: %w", dir, store.ErrBadPath)
	}
	return nil
}

// Prepare starts the spawner, if there is to be one: the first build does so too,
// but waits for it. Close waits for what Prepare has begun.
func (l *Local) Prepare() { l.spawner.get() }

// startSpawner starts one, which mounts its root over the directory of the scratches.
func (l *Local) startSpawner(c spawnerConfig, ids identity) (*spawner, error) {
	if err := l.scratches.makeDir(); err != nil {
		return nil, err
	}
	c.Allowance = l.allowance()
	return startSpawner(c, ids)
}

// Forget lets go of the inputs that are kept mounted for the next builds. They would not
// be used in another Job.Era; but what is deleted takes up its space as long as they are.
func (l *Local) Forget() { l.scratches.forget() }

// Close ends the spawner and removes spare scratch directories. No build may be
// running, and none may be begun afterwards.
func (l *Local) Close() {
	l.spawner.close()
	l.scratches.close()
}

func (l *Local) bindOf(p SandboxPath) (bind, error) {
	bad := func(why string) (bind, error) {
		return bind{}, fmt.Errorf("sandbox path %s=%s: %s: %w", p.Inside, p.Outside, why, store.ErrBadPath)
	}
	switch {
	case !path.IsAbs(p.Inside) || !path.IsAbs(p.Outside):
		return bad("not absolute")
	case path.Clean(p.Inside) != p.Inside || p.Inside == "/":
		return bad("not a clean path below /")
	}
	outside, err := l.hostPath(p.Outside)
	if err != nil {
		return bad(err.Error())
	}
	return bind{Outside: outside, Inside: p.Inside}, nil
}

// hostPath is where p is, if not below the store directory: that may be our own
// mount, and what is in it is in Real.
func (l *Local) hostPath(p string) (string, error) {
	p = path.Clean(p)
	if dir := string(l.opts.Store); p != dir && !strings.HasPrefix(p, dir+"/") {
		return p, nil
	}
	object, rest, err := l.opts.Store.Split(p)
	if err != nil {
		return "", err
	}
	return path.Join(l.opts.Real, object.Base(), rest), nil
}

// hostSystem is this machine's platform by Nix's name.
func hostSystem() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64-linux"
	case "arm64":
		return "aarch64-linux"
	case "386":
		return "i686-linux"
	}
	return runtime.GOARCH + "-linux"
}

// Build builds job. The error is a *store.Failure without a chain or, where ctx
// ended, wraps store.ErrCancelled. The scratch directory is gone by then, but
// for Job.KeepFailed.
func (l *Local) Build(ctx context.Context, job Job) (*Result, error) {
	b := &build{Local: l, job: job, placeholders: placeholders{drv: job.Derivation}}
	r, err := b.build(ctx)
	if err == nil {
		return r, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		b.discard()
		return nil, fmt.Errorf("build %s: %w: %w", job.Drv, store.ErrCancelled, cause)
	}
	f := b.failure(err)
	if b.ran && job.KeepFailed != nil && job.KeepFailed() {
		f.Kept, err = b.keep()
		if err != nil {
			f.Message += fmt.Sprintf(" (and its scratch directory cannot be kept: %v)", err)
		}
	} else {
		b.discard()
	}
	return nil, f
}

// build is one run of Local.Build.
type build struct {
	*Local
	job          Job
	attrs        attributes
	placeholders placeholders
	builtin      *builtin                  // nil: the builder is a program
	scratch      *scratch                  // nil until it exists
	infos        map[store.Path]store.Info // of job.Inputs, once somebody asked
	log          *buildLog
	ran          bool // the builder was started
	shortages    int  // that there had been by then
}

func (b *build) build(ctx context.Context) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.phase(event.PhaseSandbox)
	if err := b.accept(); err != nil {
		return nil, err
	}
	b.log = newLog(b.opts.Logs, b.job)
	defer b.log.close()
	if err := b.makeScratch(); err != nil {
		return nil, err
	}
	env, err := b.environment()
	if err != nil {
		return nil, err
	}
	started, took, err := b.run(ctx, env)
	if err != nil {
		return nil, err
	}
	b.phase(event.PhaseScan)
	reading := ctx
	if d := b.job.Limits.Timeout; d > 0 {
		// The builder had all of that time, as in Nix. What it leaves may take hours to
		// read, even if it took nothing to make, as a file that is all hole.
		var cancel context.CancelFunc
		reading, cancel = context.WithTimeoutCause(ctx, d, fail(store.CauseTimeout, "timed out: it takes longer than %s to read", d))
		defer cancel()
	}
	outputs, err := b.outputs(reading)
	if err != nil {
		return nil, err
	}
	if err := b.checkReferences(outputs); err != nil {
		return nil, err
	}
	return &Result{
		Outputs:  outputs,
		Started:  started,
		Duration: took,
		LogFile:  b.log.path,
		Release:  b.discard,
		Keep:     b.keep,
	}, nil
}

func (b *build) phase(name string) {
	if b.job.Phase != nil {
		b.job.Phase(name)
	}
}

// spec is what a child of our own gets.
func (b *build) spec(env []string) *spec {
	d := b.job.Derivation
	s := &spec{
		Scratch:     b.scratch.dir,
		Real:        b.opts.Real,
		Store:       string(b.opts.Store),
		Inputs:      make([]string, 0, len(b.job.Inputs)),
		Binds:       slices.Clone(b.binds),
		Devices:     b.devices(),
		Allowance:   b.allowance(),
		Personality: b.personality(),
		Builder:     []byte(d.Builder),
		Args:        b.arguments(),
		Env:         env,
	}
	for _, in := range b.job.Inputs {
		s.Inputs = append(s.Inputs, string(inputLetter(in.Kind))+in.Path.Base())
	}
	if _, fixed := d.Fixed(); fixed {
		s.Network = true
		s.Binds = append(s.Binds, b.hostNetworkFiles(b.builtin != nil)...)
	}
	if b.builtin != nil {
		b.makeBuiltin(s)
	}
	return s
}

// arguments are those of the builder, its name first.
func (b *build) arguments() []string {
	d := b.job.Derivation
	args := append(make([]string, 0, 1+len(d.Args)), path.Base(d.Builder))
	for _, a := range d.Args {
		args = append(args, b.placeholders.replace(a))
	}
	return args
}

// personality is the builder's, as flags of personality(2).
func (b *build) personality() uintptr {
	if b.job.Derivation.Platform == "i686-linux" && b.opts.System == "x86_64-linux" {
		return addrNoRandomize | perLinux32
	}
	return addrNoRandomize
}

// devices are the base names in /dev that builders see.
func (l *Local) devices() []string {
	devices := []string{"full", "null", "random", "tty", "urandom", "zero"}
	if slices.Contains(l.opts.Features, "kvm") {
		if _, err := os.Stat("/dev/kvm"); err == nil {
			devices = append(devices, "kvm")
		}
	}
	return devices
}

// launch is what the spawner gets.
func (b *build) launch(env []string) *launch {
	l := &launch{
		scratch:     filepath.Base(b.scratch.dir),
		number:      b.scratch.number,
		stubs:       b.scratch.fitted,
		inputs:      make([]string, 0, len(b.job.Inputs)),
		personality: b.personality(),
		held:        b.job.Turn != nil,
		pool:        b.job.Pool,
		heir:        b.job.Heir,
		builder:     b.job.Derivation.Builder,
		args:        b.arguments(),
		env:         env,
	}
	for _, in := range b.job.Inputs {
		if inputLetter(in.Kind) != letterSymlink { // those are there already
			l.inputs = append(l.inputs, in.Path.Base())
		}
	}
	return l
}

// hostNetworkFiles is what a builder with the host's network needs to find and
// trust other hosts; whom, our own environment says of what is our own program.
func (l *Local) hostNetworkFiles(own bool) []bind {
	var binds []bind
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/services"} {
		binds = append(binds, bind{Outside: f, Inside: f, Optional: true})
	}
	const inside = "/etc/ssl/certs/ca-certificates.crt"
	ours := ""
	if own {
		ours = os.Getenv("SSL_CERT_FILE")
	}
	for _, f := range []string{
		os.Getenv("NIX_SSL_CERT_FILE"),
		ours,
		inside,                                   // Debian, Arch, Gentoo, Alpine
		"/etc/ssl/certs/ca-bundle.crt",           // NixOS
		"/etc/pki/tls/certs/ca-bundle.crt",       // Fedora
		"/var/lib/ca-certificates/ca-bundle.pem", // SUSE
	} {
		if !path.IsAbs(f) {
			continue
		}
		f, err := l.hostPath(f)
		if err == nil {
			_, err = os.Stat(f)
		}
		if err == nil {
			return append(binds, bind{Outside: f, Inside: inside, Optional: true})
		}
	}
	return binds
}
