package builder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"storefs/store"
	"storefs/storeexpr"
)

// attributes are what a derivation says to whoever builds it. Classic ones are
// among the variables of its environment; structured ones are one JSON object
// in the variable __json, and then no variable is for the builder.
type attributes struct {
	drv        *storeexpr.Derivation
	structured map[string]any // nil: classic
}

func readAttributes(d *storeexpr.Derivation) (attributes, error) {
	a := attributes{drv: d}
	text, ok := d.Getenv("__json")
	if !ok {
		return a, nil
	}
	// What is no text in UTF-8 would be mended silently.
	if !utf8.ValidString(text) {
		return a, fail(store.CauseExpr, "structured attributes (__json): not UTF-8")
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&a.structured); err != nil {
		return a, fail(store.CauseExpr, "structured attributes (__json): %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return a, fail(store.CauseExpr, "structured attributes (__json): more than one value")
	}
	if a.structured == nil {
		return a, fail(store.CauseExpr, "structured attributes (__json): not an object")
	}
	if half, ok := halfCharacter(text); ok {
		return a, fail(store.CauseExpr, "structured attributes (__json): %s is half a character", half)
	}
	if err := finite(a.structured); err != nil {
		return a, fail(store.CauseExpr, "structured attributes (__json): %v", err)
	}
	return a, nil
}

// halfCharacter finds what stands for one half of a character in JSON without the other,
// which package json replaces and Nix refuses.
func halfCharacter(text string) (half string, found bool) {
	for i := strings.IndexByte(text, '\\'); i >= 0; i = strings.IndexByte(text, '\\') {
		text = text[i:]
		if text[1] != 'u' {
			text = text[2:]
			continue
		}
		half, text = text[:6], text[6:]
		if first := escaped(half); utf16.IsSurrogate(first) {
			if len(text) < 6 || text[:2] != `\u` || utf16.DecodeRune(first, escaped(text[:6])) == utf8.RuneError {
				return half, true
			}
			text = text[6:]
		}
	}
	return "", false
}

// escaped is what a \uXXXX stands for.
func escaped(s string) rune {
	n, _ := strconv.ParseUint(s[2:], 16, 16)
	return rune(n)
}

// finite refuses numbers that no float can hold, as Nix does.
func finite(v any) error {
	switch v := v.(type) {
	case json.Number:
		_, err := v.Float64()
		return err
	case []any:
		for _, e := range v {
			if err := finite(e); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, e := range v {
			if err := finite(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// bool is the value of a flag.
func (a attributes) bool(name string) (bool, error) {
	if a.structured == nil {
		v, _ := a.drv.Getenv(name)
		return v == "1", nil
	}
	v, ok := a.structured[name]
	if !ok {
		return false, nil
	}
	flag, ok := v.(bool)
	if !ok {
		return false, fail(store.CauseExpr, "attribute %s: not a Boolean", name)
	}
	return flag, nil
}

// text is the value of a text, and whether there is one.
func (a attributes) text(name string) (string, bool) {
	if a.structured != nil {
		v, ok := a.structured[name].(string)
		return v, ok
	}
	return a.drv.Getenv(name)
}

// words is the value of a list, and whether there is one.
func (a attributes) words(name string) ([]string, bool, error) {
	if a.structured != nil {
		v, ok := a.structured[name]
		if !ok {
			return nil, false, nil
		}
		list, err := stringList(v)
		if err != nil {
			return nil, false, fail(store.CauseExpr, "attribute %s: %v", name, err)
		}
		return list, true, nil
	}
	v, ok := a.drv.Getenv(name)
	return tokens(v), ok, nil
}

// discards reports whether what an output refers to is not to be recorded. Nix reads that
// since 2.14, of structured attributes only.
func (a attributes) discards(output string) (bool, error) {
	v, ok := a.structured["unsafeDiscardReferences"]
	if !ok {
		return false, nil
	}
	outputs, ok := v.(map[string]any)
	if !ok {
		return false, fail(store.CauseExpr, "attribute unsafeDiscardReferences: not an object")
	}
	if v, ok = outputs[output]; !ok {
		return false, nil
	}
	flag, ok := v.(bool)
	if !ok {
		return false, fail(store.CauseExpr, "attribute unsafeDiscardReferences: %s: not a Boolean", output)
	}
	return flag, nil
}

// looseList is stringList for lists that Nix goes over without asking what they are:
// then a string is a list of itself, null has no elements, and an object has its
// values, sorted by their keys.
func looseList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case map[string]any:
		values := make([]any, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			values = append(values, v[key])
		}
		return stringList(values)
	}
	return stringList(v)
}

func stringList(v any) ([]string, error) {
	elements, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("not a list of strings")
	}
	list := make([]string, 0, len(elements))
	for _, e := range elements {
		s, ok := e.(string)
		if !ok {
			return nil, fmt.Errorf("not a list of strings")
		}
		list = append(list, s)
	}
	return list, nil
}

// tokens splits at what Nix takes for white space.
func tokens(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" \t\n\r", r) })
}

// accept refuses by rule what cannot or must not be built here.
func (b *build) accept() error {
	d := b.job.Derivation
	var err error
	if b.attrs, err = readAttributes(d); err != nil {
		return err
	}
	name, builtin := strings.CutPrefix(d.Builder, "builtin:")
	if builtin {
		if err := b.acceptBuiltin(name); err != nil {
			return err
		}
	}
	features, _, err := b.attrs.words("requiredSystemFeatures")
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(features, func(f string) bool { return slices.Contains(b.opts.Features, f) })
	if !builtin && d.Platform != b.opts.System && !slices.Contains(b.opts.ExtraPlatforms, d.Platform) {
		return fail(store.CauseRefused, "it is for %s, and this is %s",
			required(d.Platform, missing), strings.Join(append([]string{b.opts.System}, b.opts.ExtraPlatforms...), ", "))
	}
	if len(missing) > 0 {
		return fail(store.CauseRefused, "it requires the system features {%s}, and this %s has {%s}",
			strings.Join(missing, ", "), b.opts.System, strings.Join(b.opts.Features, ", "))
	}
	if err := b.acceptSandbox(); err != nil {
		return err
	}
	for _, o := range d.Outputs { // what is wrong is found before it is built
		if _, err := b.attrs.discards(o.Name); err != nil {
			return err
		}
	}
	if s, ok := hasNUL(d); ok {
		return fail(store.CauseExpr, "its %s contains a NUL byte, which no program can be given", s)
	}
	return nil
}

// acceptSandbox refuses what asks for another sandbox than there is.
func (b *build) acceptSandbox() error {
	// The others change nothing here, but Nix reads them, and refuses what is no flag.
	for _, name := range []string{"__noChroot", "allowSubstitutes", "preferLocalBuild"} {
		set, err := b.attrs.bool(name)
		if err != nil {
			return err
		}
		if set && name == "__noChroot" {
			return fail(store.CauseRefused, "it asks not to be sandboxed (__noChroot)")
		}
	}
	asked, _, err := b.attrs.words("__impureHostDeps")
	if err != nil {
		return err
	}
	for _, p := range asked {
		shown := func(s bind) bool { return p == s.Inside || strings.HasPrefix(p, s.Inside+"/") }
		if !slices.ContainsFunc(b.binds, shown) {
			return fail(store.CauseRefused, "it asks for the host's %q (__impureHostDeps), which no sandbox path shows", p)
		}
	}
	return nil
}

func required(platform string, missing []string) string {
	if len(missing) == 0 {
		return platform
	}
	return platform + " with the system features {" + strings.Join(missing, ", ") + "}"
}

func hasNUL(d *storeexpr.Derivation) (what string, found bool) {
	if strings.Contains(d.Builder, "\x00") {
		return "builder", true
	}
	for _, a := range d.Args {
		if strings.Contains(a, "\x00") {
			return "argument list", true
		}
	}
	for _, v := range d.Env {
		if strings.Contains(v.Name, "\x00") || strings.Contains(v.Value, "\x00") {
			return "environment", true
		}
	}
	return "", false
}
