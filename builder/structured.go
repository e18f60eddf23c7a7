package builder

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"storefs/store"
)

// writeAttributeFiles gives a derivation with structured attributes its
// .attrs.json and .attrs.sh.
func (b *build) writeAttributeFiles(env *variables) error {
	attrs := maps.Clone(b.attrs.structured)
	outputs := make(map[string]any)
	for _, o := range b.job.Derivation.Outputs {
		outputs[o.Name] = string(o.Path)
	}
	attrs["outputs"] = outputs
	if err := b.addReferenceGraphs(attrs); err != nil {
		return err
	}
	for _, f := range []struct{ name, variable, text string }{
		{".attrs.json", "NIX_ATTRS_JSON_FILE", string(appendJSON(nil, attrs))},
		{".attrs.sh", "NIX_ATTRS_SH_FILE", shellDeclarations(attrs)},
	} {
		if err := b.writeFile(f.name, []byte(b.placeholders.replace(f.text))); err != nil {
			return err
		}
		env.set(f.variable, buildDir+"/"+f.name)
	}
	return nil
}

// addReferenceGraphs replaces each list of paths in exportReferencesGraph by what
// is known of their closures, as an attribute of its own.
func (b *build) addReferenceGraphs(attrs map[string]any) error {
	graphs, ok := attrs["exportReferencesGraph"].(map[string]any)
	if !ok {
		return nil
	}
	for name, v := range graphs {
		list, err := looseList(v)
		if err != nil {
			return fail(store.CauseExpr, "exportReferencesGraph: %s: %v", name, err)
		}
		var roots []store.Path
		for _, s := range list {
			p, err := b.opts.Store.Parse(s)
			if err != nil {
				return fail(store.CauseExpr, "exportReferencesGraph: %s: %v", name, err)
			}
			roots = append(roots, p)
		}
		infos, err := b.exported(roots)
		if err != nil {
			return err
		}
		described := []any{}
		for _, info := range infos {
			described = append(described, b.describe(info))
		}
		attrs[name] = described
	}
	return nil
}

// describe is what `nix path-info --json` of Nix 2.8 says of a path.
func (b *build) describe(info store.Info) map[string]any {
	refs := []any{}
	for _, r := range info.References {
		refs = append(refs, string(r))
	}
	m := map[string]any{
		"path":        string(info.Path),
		"narHash":     info.NarHash.String(),
		"narSize":     number(info.NarSize),
		"references":  refs,
		"closureSize": number(closureSize(b.closure([]store.Path{info.Path}, nil))),
	}
	if info.CA != "" {
		m["ca"] = info.CA
	}
	return m
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// appendJSON writes v as Nix's JSON library does: keys sorted, no white space,
// and nothing escaped but what must be.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case json.Number:
		return appendJSONNumber(b, v)
	case string:
		return appendJSONString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONString(b, key)
			b = append(b, ':')
			b = appendJSON(b, v[key])
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("no JSON value: %T", v))
}

// appendJSONNumber writes what fits no integer of 64 bits as a float.
func appendJSONNumber(b []byte, n json.Number) []byte {
	if i, err := n.Int64(); err == nil {
		return strconv.AppendInt(b, i, 10)
	}
	if u, err := strconv.ParseUint(string(n), 10, 64); err == nil {
		return strconv.AppendUint(b, u, 10)
	}
	f, _ := n.Float64() // see finite
	return appendJSONFloat(b, f)
}

func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// shellDeclarations are bash declarations of those attributes that bash can
// hold: scalars, and lists and objects of scalars.
func shellDeclarations(attrs map[string]any) string {
	var b strings.Builder
	variable := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		if !variable.MatchString(key) {
			continue
		}
		switch v := attrs[key].(type) {
		case []any:
			if list, ok := shellList(v); ok {
				fmt.Fprintf(&b, "declare -a %s=(%s)\n", key, list)
			}
		case map[string]any:
			if list, ok := shellMap(v); ok {
				fmt.Fprintf(&b, "declare -A %s=(%s)\n", key, list)
			}
		default:
			if s, ok := shellScalar(v); ok {
				fmt.Fprintf(&b, "declare %s=%s\n", key, s)
			}
		}
	}
	return b.String()
}

func shellList(list []any) (string, bool) {
	var b strings.Builder
	for _, e := range list {
		s, ok := shellScalar(e)
		if !ok {
			return "", false
		}
		b.WriteString(s + " ")
	}
	return b.String(), true
}

func shellMap(m map[string]any) (string, bool) {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		s, ok := shellScalar(m[key])
		if !ok {
			return "", false
		}
		fmt.Fprintf(&b, "[%s]=%s ", shellQuote(key), s)
	}
	return b.String(), true
}

func shellScalar(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "''", true
	case bool:
		if v {
			return "1", true
		}
		return "", true
	case string:
		return shellQuote(v), true
	case json.Number:
		return shellNumber(v)
	}
	return "", false
}

// shellNumber is v narrowed to 32 bits, as Nix does it: a float is a whole number if
// it is one as a float of 32 bits, and too large for an integer of 32 it is the least
// one, as an amd64 has it.
func shellNumber(v json.Number) (string, bool) {
	if n, err := v.Int64(); err == nil {
		return strconv.Itoa(int(int32(n))), true
	}
	if n, err := strconv.ParseUint(string(v), 10, 64); err == nil {
		return strconv.Itoa(int(int32(n))), true
	}
	f, _ := v.Float64()
	if narrow := float64(float32(f)); math.Ceil(narrow) != narrow {
		return "", false
	}
	if f <= math.MinInt32-1 || f >= math.MaxInt32+1 {
		f = math.MinInt32
	}
	return strconv.Itoa(int(f)), true
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
