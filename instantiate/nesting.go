package instantiate

import (
	"fmt"
	"unsafe"

	"go.starlark.net/lib/json"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
)

// maxDepth is how deeply values may be nested where the interpreter goes down into
// them by calls of itself: with millions, Go ends the process.
const maxDepth = 10_000

// depths are how many values are in each other at most.
type depths struct {
	// from each one down: 0 while that is being found out. What has no other in it that has
	// others is not remembered if it is small.
	from  map[identity]int
	count int // of those that were looked at, or more
}

// check looks at all that freezing globals will.
func (d *depths) check(globals starlark.StringDict) error {
	for _, name := range globals.Keys() {
		if d.tooDeep(globals[name], maxDepth) {
			return fmt.Errorf("the global %s is nested too deeply: more than %d values in each other", name, maxDepth)
		}
	}
	return nil
}

// few is how many values are looked at again wherever they are found: that takes less time,
// and memory, than to remember that they were looked at.
const few = 16

// tooDeep goes down with a stack of its own, looking at each value once that has others
// with values in them. Where values hold themselves, the way ends.
func (d *depths) tooDeep(v starlark.Value, limit int) bool {
	type step struct {
		id    identity
		begin int // of what is in it, in rest
		most  int // of those in it that have been looked at
	}
	if d.from == nil {
		d.from = make(map[identity]int)
	}
	rest := appendOuter(nil, v)
	stack := []step{{}}
	for {
		top := &stack[len(stack)-1]
		if len(rest) == top.begin {
			depth := top.most + 1
			if depth > limit {
				return true
			}
			if stack = stack[:len(stack)-1]; len(stack) == 0 {
				return false
			}
			d.from[top.id] = depth
			up := &stack[len(stack)-1]
			up.most = max(up.most, depth)
			continue
		}
		d.count++
		v := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		begin, isFew := len(rest), size(v) <= few
		if isFew {
			if rest = appendInside(rest, v); len(rest) == begin {
				top.most = max(top.most, 1)
				continue
			}
		}
		id := identify(v)
		if depth, ok := d.from[id]; ok {
			top.most = max(top.most, depth)
			rest = rest[:begin]
			continue
		}
		if !isFew {
			rest = appendInside(rest, v)
		}
		d.from[id] = 0
		if stack = append(stack, step{id: id, begin: begin}); len(stack) > limit+1 {
			return true
		}
	}
}

// size is how many values are in v; of a function, that is nearly none.
func size(v starlark.Value) int {
	if s, ok := v.(*starlarkstruct.Struct); ok {
		return s.Len()
	}
	return starlark.Len(v)
}

// identity is what tells a value from others that have values in them; its size is 0 if v
// has none.
type identity struct {
	at   unsafe.Pointer
	size int // of a tuple, which may begin where another one does
}

func identify(v starlark.Value) identity {
	switch v := v.(type) {
	case starlark.Tuple:
		return identity{unsafe.Pointer(unsafe.SliceData(v)), len(v)}
	case *starlark.List:
		return identity{unsafe.Pointer(v), 1}
	case *starlark.Dict:
		return identity{unsafe.Pointer(v), 1}
	case *starlark.Set:
		return identity{unsafe.Pointer(v), 1}
	case *starlark.Function:
		return identity{unsafe.Pointer(v), 1}
	case *starlark.Builtin:
		return identity{unsafe.Pointer(v), 1}
	case *starlarkstruct.Struct:
		return identity{unsafe.Pointer(v), 1}
	}
	return identity{}
}

// appendInside appends the values in v that have others in them.
func appendInside(all []starlark.Value, v starlark.Value) []starlark.Value {
	switch v := v.(type) {
	case starlark.Tuple:
		for _, e := range v {
			all = appendOuter(all, e)
		}
	case *starlark.List:
		for i := range v.Len() {
			all = appendOuter(all, v.Index(i))
		}
	case *starlark.Dict:
		return appendEntries(all, v)
	case *starlark.Set:
		return appendElements(all, v)
	case *starlark.Function:
		for i := range v.NumParams() {
			all = appendOuter(all, v.ParamDefault(i))
		}
		for i := range v.NumFreeVars() {
			_, free := v.FreeVar(i)
			all = appendOuter(all, free)
		}
	case *starlark.Builtin:
		all = appendOuter(all, v.Receiver())
	case *starlarkstruct.Struct:
		for i := range v.Len() {
			_, e := v.AttrAt(i)
			all = appendOuter(all, e)
		}
	}
	return all
}

// These are functions of their own since their loops call a function, which makes all
// escape.
func appendEntries(all []starlark.Value, d *starlark.Dict) []starlark.Value {
	for key, v := range d.Entries() {
		all = appendOuter(appendOuter(all, key), v)
	}
	return all
}

func appendElements(all []starlark.Value, s *starlark.Set) []starlark.Value {
	for v := range s.Elements() {
		all = appendOuter(all, v)
	}
	return all
}

// appendOuter appends v if it has others in it.
func appendOuter(all []starlark.Value, v starlark.Value) []starlark.Value {
	if identify(v).size > 0 {
		return append(all, v)
	}
	return all
}

// jsonModule is Starlark's, with a decode that refuses what is nested too deeply.
func jsonModule() *starlarkstruct.Module {
	m := &starlarkstruct.Module{Name: json.Module.Name, Members: starlark.StringDict{}}
	for name, member := range json.Module.Members {
		m.Members[name] = member
	}
	decode := json.Module.Members["decode"].(*starlark.Builtin)
	m.Members["decode"] = starlark.NewBuiltin(decode.Name(),
		func(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			if len(args) > 0 {
				if s, ok := starlark.AsString(args[0]); ok && jsonDepth(s) > maxDepth {
					return nil, fmt.Errorf("%s: nested too deeply: more than %d lists and objects in each other", b.Name(), maxDepth)
				}
			}
			return decode.CallInternal(t, args, kwargs)
		})
	return m
}

// jsonDepth is how deeply lists and objects are nested in s.
func jsonDepth(s string) int {
	depth, most, quoted := 0, 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			most = max(most, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return most
}
