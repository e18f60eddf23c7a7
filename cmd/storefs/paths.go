package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// textMappers are kong's for texts and paths, but that these keep each byte: names of
// files need not be UTF-8, and kong, which passes them through JSON, makes other ones of
// them. The empty path, which kong takes for the working directory, is refused.
func textMappers() []kong.Option {
	all := []kong.Option{kong.KindMapper(reflect.String, kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
		if text, ok := mangled(ctx); ok {
			ctx.Scan.Pop()
			target.SetString(text)
			return nil
		}
		return ctx.Scan.PopValueInto("string", target.Addr().Interface())
	}))}
	for _, kind := range []string{"path", "existingdir"} {
		all = append(all, kong.NamedMapper(kind, kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
			text, ok := mangled(ctx)
			switch {
			case ok && kind == "path":
				ctx.Scan.Pop()
				target.SetString(kong.ExpandPath(text))
				return nil
			case ok:
				return fmt.Errorf("%q is not UTF-8", text)
			case ctx.Scan.Peek().Value == "" && !isUnset(ctx.Value):
				return errors.New("the path is empty")
			}
			return kong.NewRegistry().RegisterDefaults().ForNamedValue(kind, target).Decode(ctx, target)
		})))
	}
	return all
}

// mangled is the next text, and whether kong would change it.
func mangled(ctx *kong.DecodeContext) (text string, ok bool) {
	t := ctx.Scan.Peek()
	text, ok = t.Value.(string)
	return text, ok && t.IsValue() && !utf8.ValidString(text)
}

// checkArguments refuses empty ones: what has no name is not the working directory,
// and nothing else that a command is about.
func checkArguments(ctx *kong.Context) error {
	for _, p := range ctx.Path {
		if p.Positional == nil {
			continue
		}
		switch arg := p.Positional.Target.Interface().(type) {
		case string:
			if arg == "" {
				return fmt.Errorf("%s: the path is empty", p.Positional.Summary())
			}
		case []string:
			if slices.Contains(arg, "") {
				return fmt.Errorf("%s: the path is empty", p.Positional.Summary())
			}
		}
	}
	return nil
}

// isUnset reports whether v may be empty: where its default is, or its variable in the
// environment, which then says nothing.
func isUnset(v *kong.Value) bool {
	return v.HasDefault && v.Default == "" || slices.ContainsFunc(v.Tag.Envs, func(name string) bool {
		text, ok := os.LookupEnv(name)
		return ok && text == ""
	})
}
