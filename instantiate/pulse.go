package instantiate

import (
	"fmt"
	"reflect"
	"sync/atomic"
	"unsafe"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

const (
	// beatSteps is the most steps from one beat to the next: a beat takes as long as ten.
	beatSteps = 1000
	// mostNested is how deeply values can be nested at most. maxStack is enough for that: to
	// print a tuple takes most, half a kilobyte for each in another.
	mostNested = 2_000_000
	// All values are looked at before they can be nested more, and no sooner, since it takes
	// long where there are many. Each takes valueSize bytes at least; so nothing is to be done
	// while the heap has no more than lookSize, whatever it began with, or while too little was
	// allocated since they were counted. And each step nests values by one more at most: so
	// nothing is to be done for lookSteps, and then it is asked each sizeSteps.
	valueSize = 40
	lookSize  = (mostNested - sizeSteps) * valueSize
	lookSteps = mostNested - maxLive - sizeSteps
	sizeSteps = 100_000
	// maxStack is the most that Go's runtime can be told. It takes a power of two.
	maxStack = 2_000_000_000
	// maxLive is how deeply values may be nested while a file is evaluated.
	maxLive = 10 * maxDepth
	// maxCalls is how deeply functions may call each other. They cannot call themselves.
	maxCalls = 10_000
)

// pulse is what an evaluation tells of itself while it runs: where it is, and that it goes
// on. The interpreter's own position may be read by its goroutine only.
type pulse struct {
	beats   atomic.Uint64
	where   atomic.Pointer[syntax.Position]
	reading atomic.Bool // files: that takes as long as it takes, and ends when it is cancelled
}

func newPulse(file string) *pulse {
	p := &pulse{}
	p.at(syntax.MakePosition(&file, 0, 0))
	return p
}

func (p *pulse) at(pos syntax.Position) {
	p.where.Store(&pos)
	p.beats.Add(1)
}

// position is where the evaluation was when it was heard of last.
func (p *pulse) position() string { return p.where.Load().String() }

// beat is called after some steps, and lets itself be called again.
func (e *evaluation) beat(t *starlark.Thread) {
	e.pulse.at(t.CallFrame(0).Pos)
	switch {
	case t.Steps >= e.opts.MaxSteps:
		t.Cancel(fmt.Sprintf("more than %d steps", e.opts.MaxSteps))
	case t.CallStackDepth() > maxCalls:
		t.Cancel(fmt.Sprintf("more than %d functions call each other", maxCalls))
	case t.Steps < e.look:
	case heapSize() <= floorSize+lookSize || allocated() <= e.room:
		e.look = t.Steps + sizeSteps
	default:
		d := &depths{}
		if e.tooDeep(t, d) {
			t.Cancel(fmt.Sprintf("nested too deeply: more than %d values in each other", maxLive))
		}
		e.look = t.Steps + lookSteps
		e.room = allocated() + valueSize*uint64(max(0, mostNested-sizeSteps-d.count))
	}
	// Often at first, so that the position is good in short files as well.
	t.SetMaxExecutionSteps(min(t.Steps+min(beatSteps, 1+t.Steps/16), e.opts.MaxSteps))
}

// tooDeep looks at whatever functions that run can reach, and at what they have in their
// hands only: it may be what grows, taken out of a list to be put back in another one.
func (e *evaluation) tooDeep(t *starlark.Thread, d *depths) bool {
	files := map[string]bool{}
	for i := range t.CallStackDepth() {
		frame := t.DebugFrame(i)
		f, ok := frame.Callable().(*starlark.Function)
		if !ok {
			continue
		}
		if file := f.Position().Filename(); !files[file] {
			files[file] = true
			for _, v := range f.Globals() {
				if d.tooDeep(v, maxLive) {
					return true
				}
			}
		}
		if d.tooDeep(f, maxLive) {
			return true
		}
		for _, v := range inHand(frame, f) {
			if v != nil && d.tooDeep(variable(v), maxLive) {
				return true
			}
		}
	}
	return false
}

// inHand are the values of a function's local variables, and those that are on its stack of
// operands, or were, between two operations: the interpreter tells the first only, but has
// the second behind them in one array.
func inHand(frame starlark.DebugFrame, f *starlark.Function) []starlark.Value {
	locals := reflect.ValueOf(frame).Elem().FieldByName("locals")
	operands := reflect.ValueOf(f).Elem().FieldByName("funcode").Elem().FieldByName("MaxStack")
	if locals.Type() != reflect.TypeFor[[]starlark.Value]() || operands.Kind() != reflect.Int {
		panic("the interpreter has changed")
	}
	if locals.IsNil() {
		return nil
	}
	return unsafe.Slice((*starlark.Value)(locals.UnsafePointer()), locals.Len()+int(operands.Int()))
}

// variable is the value of a local variable: the interpreter has those that inner functions
// use in a type of its own, a struct with the value alone in it.
func variable(v starlark.Value) starlark.Value {
	r := reflect.ValueOf(v)
	if v.Type() != "cell" || r.Kind() != reflect.Pointer || r.Elem().Kind() != reflect.Struct || r.Elem().NumField() != 1 ||
		r.Elem().Field(0).Type() != reflect.TypeFor[starlark.Value]() {
		return v
	}
	if in := *(*starlark.Value)(r.UnsafePointer()); in != nil {
		return in
	}
	return starlark.None
}

// reading is fn, which reads files.
func (e *evaluation) reading(fn builtin) builtin {
	return func(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		e.pulse.reading.Store(true)
		defer e.pulse.reading.Store(false)
		return fn(t, b, args, kwargs)
	}
}
