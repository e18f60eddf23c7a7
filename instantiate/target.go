package instantiate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.starlark.net/starlark"

	"storefs/store"
)

// Target is something that was asked for.
type Target struct {
	Name   string     // how the file calls it: "hello", "pkgs.hello.dev", "all[2]"
	Drv    store.Path // the derivation; "" for a source or a text
	Output string     // the name of the output; "" for a source or a text, and where the derivation itself was meant
	Path   store.Path // the output's path, or that of the source or text
	object object
}

// maxTargets bounds what is looked at for targets: a list can hold another one twice.
const maxTargets = 1_000_000

// targets selects by Options.Target.
func (e *evaluation) targets(globals starlark.StringDict) ([]Target, error) {
	want := e.opts.Target
	if want == "" {
		if v, ok := globals["default"]; ok {
			return e.collect("default", v)
		}
		var all []Target
		for _, name := range globals.Keys() {
			if d, ok := globals[name].(*derivation); ok && !strings.HasPrefix(name, "_") {
				all = append(all, e.target(name, object{drv: d, output: d.outputs[0]}))
			}
		}
		if len(all) == 0 {
			return nil, &Error{Pos: e.opts.File, Msg: "no global is a derivation, and none is called default" + offer(publicNames(globals))}
		}
		return all, nil
	}
	name, rest, more := strings.Cut(want, ".")
	v, ok := globals[name]
	if !ok || strings.HasPrefix(name, "_") {
		return nil, &Error{Pos: e.opts.File, Msg: fmt.Sprintf("no target %q", want) + offer(publicNames(globals))}
	}
	at := name
	for more {
		inner, used, names := member(v, rest)
		if inner == nil {
			return nil, &Error{Pos: e.opts.File, Msg: fmt.Sprintf("no target %q: %s has no %q", want, at, rest) + offer(names)}
		}
		v, at = inner, at+"."+used
		rest, more = strings.CutPrefix(rest[len(used):], ".")
	}
	return e.collect(at, v)
}

// member looks a dotted name up in v. The longest key that fits is taken,
// because keys may have dots in them. used is what it took of the name; if
// there is none, names are those there are.
func member(v starlark.Value, dotted string) (inner starlark.Value, used string, names []string) {
	for used = dotted; ; {
		switch v := v.(type) {
		case *starlark.Dict:
			if x, ok, err := v.Get(starlark.String(used)); ok && err == nil {
				return x, used, nil
			}
		case *starlark.List, starlark.Tuple:
			list := v.(starlark.Indexable)
			if i, err := strconv.Atoi(used); err == nil && i >= 0 && i < list.Len() && strconv.Itoa(i) == used {
				return list.Index(i), used, nil
			}
		case starlark.HasAttrs:
			if _, ok := v.(starlark.String); ok {
				break // strings have methods only
			}
			if x, err := v.Attr(used); x != nil && err == nil {
				return x, used, nil
			}
		}
		i := strings.LastIndexByte(used, '.')
		if i < 0 {
			break
		}
		used = used[:i]
	}
	switch v := v.(type) {
	case *starlark.Dict:
		for _, k := range v.Keys() {
			if s, ok := starlark.AsString(k); ok {
				names = append(names, s)
			}
		}
	case *starlark.List, starlark.Tuple: // which has methods, too
		for i := range v.(starlark.Indexable).Len() {
			names = append(names, strconv.Itoa(i))
		}
		return nil, "", names
	case *derivation:
		names = slices.Clone(v.outputs)
	case starlark.HasAttrs:
		if _, ok := v.(starlark.String); !ok {
			names = v.AttrNames()
		}
	}
	return nil, "", names
}

// collect makes targets of a value: a derivation (its first output), a path,
// or a list, dict or struct of those.
func (e *evaluation) collect(name string, v starlark.Value) ([]Target, error) {
	if e.collected++; e.collected > maxTargets {
		return nil, &Error{Pos: e.opts.File, Msg: fmt.Sprintf("more than %d targets", maxTargets)}
	}
	if strings.Count(name, "[") > maxNesting || strings.Count(name, ".") > 4*maxNesting {
		return nil, &Error{Pos: e.opts.File, Msg: fmt.Sprintf("target %.60s…: nested too deeply", name)}
	}
	var all []Target
	add := func(name string, v starlark.Value) error {
		more, err := e.collect(name, v)
		all = append(all, more...)
		return err
	}
	switch v := v.(type) {
	case *derivation:
		return []Target{e.target(name, object{drv: v, output: v.outputs[0]})}, nil
	case starlark.String:
		if o, ok := e.exactly(string(v)); ok {
			return []Target{e.target(name, o)}, nil
		}
		return nil, &Error{Pos: e.opts.File, Msg: fmt.Sprintf("target %s: the string %s is not a store path of this evaluation", name, shorten(v.String()))}
	case *starlark.Dict:
		for _, item := range v.Items() {
			key, ok := starlark.AsString(item[0])
			if !ok {
				key = item[0].String()
			}
			if err := add(name+"."+key, item[1]); err != nil {
				return nil, err
			}
		}
		return all, nil
	case starlark.Indexable: // lists and tuples
		for i := range v.Len() {
			if err := add(fmt.Sprintf("%s[%d]", name, i), v.Index(i)); err != nil {
				return nil, err
			}
		}
		return all, nil
	case starlark.HasAttrs:
		if v.Type() == "struct" {
			for _, key := range v.AttrNames() {
				x, err := v.Attr(key)
				if err != nil {
					return nil, err
				}
				if err := add(name+"."+key, x); err != nil {
					return nil, err
				}
			}
			return all, nil
		}
	}
	return nil, &Error{Pos: e.opts.File, Msg: fmt.Sprintf("target %s is of type %s, not a derivation, a path, or a list, dict or struct of them", name, v.Type())}
}

// exactly finds what has the path s.
func (e *evaluation) exactly(s string) (object, bool) {
	p, err := e.opts.Dir.Parse(s)
	if err != nil {
		return object{}, false
	}
	o, ok := e.objects[p.Digest()]
	if !ok || o.placeholder != "" || e.target("", o).Path != p && e.target("", o).Drv != p {
		return object{}, false
	}
	return o, true
}

func (e *evaluation) target(name string, o object) Target {
	t := Target{Name: name, object: o}
	switch {
	case o.source != nil:
		t.Path = o.source.Path
	case o.text != nil:
		t.Path = o.text.Path
	default:
		t.Drv, t.Output = o.drv.path, o.output
		if o.output != "" {
			t.Path = store.Path(o.drv.output(o.output))
		}
	}
	return t
}

// publicNames are the globals that can be, or hold, targets.
func publicNames(globals starlark.StringDict) []string {
	var names []string
	for _, name := range globals.Keys() {
		switch globals[name].(type) {
		case *derivation, *starlark.List, starlark.Tuple, *starlark.Dict:
		default:
			if globals[name].Type() != "struct" {
				continue
			}
		}
		if !strings.HasPrefix(name, "_") {
			names = append(names, name)
		}
	}
	return names
}

// offer lists what could have been meant.
func offer(names []string) string {
	const most = 20
	if len(names) == 0 {
		return ""
	}
	if _, err := strconv.Atoi(names[0]); err != nil { // not a list, which is in order
		slices.Sort(names)
	}
	s := strings.Join(names[:min(most, len(names))], ", ")
	if len(names) > most {
		s += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return "; there is: " + s
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
