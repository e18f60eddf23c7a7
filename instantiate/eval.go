// Package instantiate evaluates Starlark files into store expressions.
// Everything is computed in memory first, names of sources and outputs
// included; Plan.Write then gives what the targets need to a Writer. It
// neither builds anything nor knows where a store keeps its objects.
//
// Evaluation is hermetic: a file sees the files below the directory of the
// file that evaluation began with, the arguments that it was given, and what
// it names by absolute path in source(). There is no clock, no environment
// and no network.
package instantiate

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"

	"storefs/store"
	"storefs/storeexpr"
)

// DefaultMaxSteps is the number of Starlark steps that an evaluation may take
// when Options.MaxSteps is 0: about ten seconds.
const DefaultMaxSteps = 500_000_000

// endPeriod is how long an evaluation that takes too much may take to end.
const endPeriod = 100 * time.Millisecond

// Options say what to evaluate.
type Options struct {
	// Dir is the store directory that is hashed into all names. Required.
	Dir store.Dir
	// System is what derivation() takes for system: the machine's own
	// ("x86_64-linux") if it is empty.
	System string
	// File is the Starlark file. Its directory is the root of "//".
	File string
	// Target selects what Plan.Targets holds: a global's name, which dots may
	// follow into structs, dicts and outputs; empty means the global called
	// "default", or else every public global that is a derivation.
	Target string
	// Args are the values of arg(). An absolute path among them also lets
	// read() see what is at or below it.
	Args map[string]string
	// Print gets what print() says, with its position in front: mostly, but not always,
	// one line. Nil drops it.
	Print func(text string)
	// MaxSteps ends an evaluation that takes more Starlark steps, with an
	// error. Zero means DefaultMaxSteps.
	MaxSteps uint64
	// MaxMemory ends an evaluation during which the heap of the process grows by
	// more bytes, with an error. Zero means DefaultMaxMemory.
	MaxMemory uint64
	// MaxOperation ends an evaluation in which a single operation, of which the
	// steps know nothing, takes more of the processors' time, with an error. Zero
	// means DefaultMaxOperation.
	MaxOperation time.Duration
}

// SplitTarget divides "FILE.star:TARGET" or "FILE.star"; ok is false when arg
// names no Starlark file.
func SplitTarget(arg string) (file, target string, ok bool) {
	if strings.HasSuffix(arg, ".star") {
		return arg, "", true
	}
	if i := strings.LastIndex(arg, ".star:"); i >= 0 {
		return arg[:i+len(".star")], arg[i+len(".star:"):], true
	}
	return "", "", false
}

// Eval evaluates opts.File. It reads files, and writes nothing. An error that
// is the file's fault is an *Error.
//
// An evaluation that is to end, and is in a function of the interpreter, which
// nothing can end, is left behind: it goes on until that returns.
func Eval(ctx context.Context, opts Options) (*Plan, error) {
	if opts.MaxMemory == 0 {
		opts.MaxMemory = DefaultMaxMemory
	}
	if opts.MaxOperation == 0 {
		opts.MaxOperation = DefaultMaxOperation
	}
	thread := &starlark.Thread{Name: opts.File}
	stop := context.AfterFunc(ctx, func() { thread.Cancel(context.Cause(ctx).Error()) })
	defer stop()
	debug.SetMaxStack(maxStack)
	pulse := newPulse(opts.File)
	over := make(chan string, 1)
	stopWatch := watch(opts.MaxMemory, opts.MaxOperation, pulse, func(reason string) {
		thread.Cancel(reason)
		over <- reason
	})
	defer stopWatch()

	type result struct {
		plan *Plan
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		floor := make([]byte, floorSize)
		defer runtime.KeepAlive(floor)
		// The interpreter's functions panic on some strings that would be too long.
		defer func() {
			if p := recover(); p != nil {
				r = result{err: &Error{Pos: pulse.position(), Msg: fmt.Sprintf("the interpreter failed here, or soon after: %v", p)}}
			}
			done <- r
		}()
		if r.plan, r.err = evaluate(ctx, thread, pulse, opts); r.plan != nil {
			r.plan.floor = floor
		}
	}()
	select {
	case r := <-done:
		return r.plan, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("evaluate %s: %w", opts.File, context.Cause(ctx))
	case reason := <-over:
		select {
		case r := <-done: // it says where
			return r.plan, r.err
		case <-time.After(endPeriod):
			return nil, &Error{Pos: pulse.position(), Msg: "evaluation cancelled here, or soon after: " + reason}
		}
	}
}

func evaluate(ctx context.Context, thread *starlark.Thread, pulse *pulse, opts Options) (*Plan, error) {
	if opts.System == "" {
		opts.System = hostSystem()
	}
	if opts.MaxSteps == 0 {
		opts.MaxSteps = DefaultMaxSteps
	}
	tree, err := openTree(filepath.Dir(opts.File))
	if err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", opts.File, err)
	}
	defer tree.close()
	e := &evaluation{
		opts:    opts,
		tree:    tree,
		modules: map[string]*module{},
		files:   map[string]*module{},
		objects: map[string]object{},
		sources: map[string]*Source{},
		modulo:  map[store.Path]storeexpr.Modulo{},
		asked:   map[string]bool{},
		depths:  depths{},
		pulse:   pulse,
	}
	e.builtins = e.predeclared()

	thread.Load, thread.Print = e.load, e.print
	thread.SetMaxExecutionSteps(1)
	thread.OnMaxSteps = e.beat
	// The context reaches the builtins through this field: Starlark calls them
	// without one.
	e.ctx = ctx

	m, err := e.exec(thread, filepath.Base(opts.File))
	if ctx.Err() != nil {
		return nil, fmt.Errorf("evaluate %s: %w", opts.File, context.Cause(ctx))
	}
	if err != nil {
		return nil, e.located(opts.File, err)
	}
	targets, err := e.targets(m.globals)
	if err != nil {
		return nil, err
	}
	return e.plan(targets), nil
}

// evaluation is the state of one Eval. It is used by one goroutine.
type evaluation struct {
	ctx       context.Context
	opts      Options
	tree      *tree
	builtins  starlark.StringDict
	modules   map[string]*module              // by path below the root of the tree
	files     map[string]*module              // by file name as positions show it
	loading   []string                        // the chain of loads under way
	objects   map[string]object               // by digest: whatever has a store path in this evaluation
	sources   map[string]*Source              // by what was asked for
	writer    narWriter                       // of sources that are hashed
	survey    survey                          // of their directories
	external  []string                        // absolute paths that were read
	modulo    map[store.Path]storeexpr.Modulo // by derivation
	depths    depths                          // of the globals
	look      uint64                          // the step before which nothing can be nested too deeply
	room      uint64                          // and as little allocated that nothing can be
	pulse     *pulse
	collected int             // values that were looked at for targets
	asked     map[string]bool // arguments that arg() was asked for
}

// builtin is a function as the interpreter calls it.
type builtin = func(*starlark.Thread, *starlark.Builtin, starlark.Tuple, []starlark.Tuple) (starlark.Value, error)

func (e *evaluation) predeclared() starlark.StringDict {
	d := starlark.StringDict{
		"json":   jsonModule(),
		"struct": starlark.NewBuiltin("struct", starlarkstruct.Make),
	}
	for name, fn := range map[string]builtin{
		"arg":         e.argBuiltin,
		"derivation":  e.derivationBuiltin,
		"glob":        e.reading(e.globBuiltin),
		"placeholder": e.placeholderBuiltin,
		"read":        e.reading(e.readBuiltin),
		"source":      e.reading(e.sourceBuiltin),
		"text":        e.textBuiltin,
	} {
		d[name] = starlark.NewBuiltin(name, fn)
	}
	maps.Copy(d, copying())
	return d
}

func (e *evaluation) print(t *starlark.Thread, msg string) {
	if e.opts.Print != nil {
		e.opts.Print(e.caller(t) + ": " + msg)
	}
}

// argBuiltin is arg(name, default=None).
func (e *evaluation) argBuiltin(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var name string
	var def starlark.Value
	if err := starlark.UnpackArgs(b.Name(), args, kwargs, "name", &name, "default?", &def); err != nil {
		return nil, err
	}
	e.asked[name] = true
	if v, ok := e.opts.Args[name]; ok {
		return starlark.String(v), nil
	}
	if def == nil {
		return nil, fmt.Errorf("arg: %q has no default and was not given: use --arg %s=VALUE", name, name)
	}
	return def, nil
}

// hostSystem is Nix's name of the machine that this runs on.
func hostSystem() string {
	cpu := runtime.GOARCH
	switch cpu {
	case "amd64":
		cpu = "x86_64"
	case "arm64":
		cpu = "aarch64"
	case "386":
		cpu = "i686"
	}
	return cpu + "-" + runtime.GOOS
}
