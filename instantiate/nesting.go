package instantiate

import (
	"fmt"

	"go.starlark.net/lib/json"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
)

// maxDepth is how deeply values may be nested where the interpreter goes down into
// them by calls of itself: with millions, Go ends the process.
const maxDepth = 10_000

// depths are how many values are in each other at most, from each one down: 0 while that
// is being found out.
type depths map[any]int

// check looks at all that freezing globals will.
func (d depths) check(globals starlark.StringDict) error {
	for _, name := range globals.Keys() {
		if d.tooDeep(globals[name], maxDepth) {
			return fmt.Errorf("the global %s is nested too deeply: more than %d values in each other", name, maxDepth)
		}
	}
	return nil
}

// tooDeep goes down with a stack of its own, looking at each value once. Where values hold
// themselves, the way ends.
func (d depths) tooDeep(v starlark.Value, limit int) bool {
	type step struct {
		id   any
		rest []starlark.Value
		most int // of those in it that have been looked at
	}
	stack := []step{{rest: []starlark.Value{v}}}
	for {
		top := &stack[len(stack)-1]
		if len(top.rest) == 0 {
			depth := top.most + 1
			if depth > limit {
				return true
			}
			if stack = stack[:len(stack)-1]; len(stack) == 0 {
				return false
			}
			d[top.id] = depth
			up := &stack[len(stack)-1]
			up.most = max(up.most, depth)
			continue
		}
		v := top.rest[0]
		top.rest = top.rest[1:]
		id := identity(v)
		if id == nil {
			continue
		}
		if depth, ok := d[id]; ok {
			top.most = max(top.most, depth)
			continue
		}
		d[id] = 0
		if stack = append(stack, step{id: id, rest: inside(v)}); len(stack) > limit+1 {
			return true
		}
	}
}

// identity is nil for a value that has no others in it.
func identity(v starlark.Value) any {
	switch v := v.(type) {
	case starlark.Tuple:
		if len(v) > 0 {
			type tuple struct {
				first *starlark.Value
				size  int
			}
			return tuple{&v[0], len(v)}
		}
	case *starlark.List, *starlark.Dict, *starlark.Set, *starlark.Function, *starlark.Builtin, *starlarkstruct.Struct:
		return v
	}
	return nil
}

// inside are the values in v.
func inside(v starlark.Value) []starlark.Value {
	var all []starlark.Value
	switch v := v.(type) {
	case starlark.Tuple:
		return v
	case *starlark.Dict:
		for _, item := range v.Items() {
			all = append(all, item...)
		}
	case *starlark.Function:
		for i := range v.NumParams() {
			all = append(all, v.ParamDefault(i))
		}
		for i := range v.NumFreeVars() {
			_, free := v.FreeVar(i)
			all = append(all, free)
		}
	case *starlark.Builtin:
		return []starlark.Value{v.Receiver()}
	case *starlarkstruct.Struct:
		for _, name := range v.AttrNames() {
			if a, err := v.Attr(name); err == nil {
				all = append(all, a)
			}
		}
	case starlark.Iterable: // a list or a set
		for e := range starlark.Elements(v) {
			all = append(all, e)
		}
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
