package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/pelletier/go-toml"
)

// configFile is a TOML file with flags. The same one is read by all commands: a
// key that only others have as a flag means nothing here.
type configFile struct {
	name   string
	values map[string]any
}

var _ kong.Resolver = configFile{}

// BeforeResolve is for kong: it reads the config files, and comes after --help,
// which must work with any of them. Of several, the last one wins.
func (*shared) BeforeResolve(ctx *kong.Context) error {
	if c := ctx.Selected(); c == nil || c.ClosestGroup().Key == "rest" {
		return nil // as --help
	}
	for _, name := range configFiles() {
		f, err := readConfig(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		ctx.AddResolver(f)
	}
	for _, p := range ctx.Path {
		if p.Flag == nil || p.Flag.Name != "config" {
			continue
		}
		f, err := readConfig(ctx.FlagValue(p.Flag).(string))
		if err != nil {
			return err
		}
		ctx.AddResolver(f)
		break // given twice, the value is the last one
	}
	return nil
}

// configFiles are read where they exist, the system's first.
func configFiles() []string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return []string{"/etc/storefs.toml"}
	}
	return []string{"/etc/storefs.toml", filepath.Join(dir, "storefs.toml")}
}

// maxConfig is far more than all flags take. The parser goes down into what is nested by
// calls of itself, and with millions Go ends the process.
const maxConfig = 64 << 10

func readConfig(name string) (configFile, error) {
	file, err := os.Open(name)
	if err != nil {
		return configFile{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return configFile{}, err
	}
	if len(text) > maxConfig {
		return configFile{}, fmt.Errorf("%s: larger than %d bytes", name, maxConfig)
	}
	tree, err := toml.LoadBytes(text)
	if err != nil {
		return configFile{}, fmt.Errorf("%s: %w", name, err)
	}
	return configFile{name, tree.ToMap()}, nil
}

// Resolve gives a flag that is not on the command line its value. The
// environment wins over a file: kong has it the other way round.
func (f configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	v := f.values[flag.Name]
	if _, text := v.(string); !text && v != nil && v != int64(0) && isTime(flag) {
		// A number would be one of nanoseconds.
		return nil, fmt.Errorf(`%s: %s = %v: a time is a text with a unit ("90s", "1h30m")`, f.name, flag.Name, v)
	}
	return v, nil
}

func isTime(flag *kong.Flag) bool {
	t := flag.Target.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t == reflect.TypeFor[time.Duration]()
}

// Validate finds the keys that no command has as a flag. The model is mostly that
// of one command, and all of them are made only if that does not know them all.
func (f configFile) Validate(model *kong.Application) error {
	unknown := f.unknown(model)
	if len(unknown) == 0 {
		return nil
	}
	all, err := kong.New(&cli{}, kong.ExplicitGroups(groups()), vars())
	if err != nil {
		return err
	}
	if unknown = f.unknown(all.Model); len(unknown) > 0 {
		return fmt.Errorf("%s: unknown configuration keys: %s", f.name, strings.Join(unknown, ", "))
	}
	return nil
}

// unknown are the keys that are no flags in the model, sorted.
func (f configFile) unknown(model *kong.Application) []string {
	known := map[string]bool{}
	_ = kong.Visit(model, func(v kong.Visitable, next kong.Next) error {
		if flag, ok := v.(*kong.Flag); ok {
			known[flag.Name] = true
		}
		return next(nil)
	})
	var unknown []string
	for key := range f.values {
		if !known[key] {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}
