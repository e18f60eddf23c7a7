package main

import (
	"errors"
	"os"
	"reflect"
	"slices"

	"github.com/alecthomas/kong"
)

// pathMappers are kong's for paths, but that they refuse the empty one, which
// kong takes for the working directory.
func pathMappers() []kong.Option {
	var all []kong.Option
	for _, kind := range []string{"path", "existingdir"} {
		all = append(all, kong.NamedMapper(kind, kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
			if ctx.Scan.Peek().Value == "" && !isUnset(ctx.Value) {
				return errors.New("the path is empty")
			}
			return kong.NewRegistry().RegisterDefaults().ForNamedValue(kind, target).Decode(ctx, target)
		})))
	}
	return all
}

// isUnset reports whether v may be empty: where its default is, or its variable in the
// environment, which then says nothing.
func isUnset(v *kong.Value) bool {
	return v.HasDefault && v.Default == "" || slices.ContainsFunc(v.Tag.Envs, func(name string) bool {
		text, ok := os.LookupEnv(name)
		return ok && text == ""
	})
}
