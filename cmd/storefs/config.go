package main

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
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
	set    map[string]string // for each flag that a file sets, the name of that file
}

var _ kong.Resolver = configFile{}

// BeforeResolve is for kong: it reads the config files, and comes after --help,
// which must work with any of them. Of several, the last one wins.
func (*shared) BeforeResolve(ctx *kong.Context, a *app) error {
	if c := ctx.Selected(); c == nil || c.ClosestGroup().Key == "rest" {
		return nil // as --help
	}
	a.configured = map[string]string{}
	for _, name := range configFiles() {
		f, err := readConfig(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return err
		}
		f.set = a.configured
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
		f.set = a.configured
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
	return parseConfig(name, text)
}

func parseConfig(name string, text []byte) (configFile, error) {
	tree, err := toml.LoadBytes(text)
	if err != nil {
		return configFile{}, fmt.Errorf("%s: %w", name, err)
	}
	return configFile{name: name, values: tree.ToMap()}, nil
}

// Resolve gives a flag that is not on the command line its value. The
// environment wins over a file: kong has it the other way round.
func (f configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	v, ok := f.values[flag.Name]
	if !ok {
		return nil, nil
	}
	text, err := fit(flag, v)
	if err != nil {
		return nil, &configError{fmt.Errorf("%s: %s = %v: %w", f.name, flag.Name, v, err)}
	}
	f.set[flag.Name] = f.name
	return text, nil
}

// configError says of a value which file it is in.
type configError struct{ error }

// fit is what a file says of a flag as it would stand on a command line, or a list or
// table of that: of other things kong says what they are in Go.
func fit(flag *kong.Flag, v any) (any, error) {
	t := flag.Target.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch list, many := v.([]any); {
	case isTime(flag):
		if _, text := v.(string); !text && v != int64(0) {
			// A number would be one of nanoseconds.
			return nil, errors.New(`a time is a text with a unit ("90s", "1h30m")`)
		}
		return v, nil
	case t.Kind() == reflect.Bool:
		switch v.(type) {
		case bool, string:
			return v, nil
		}
		return nil, errors.New("it is true or false")
	case t.Kind() == reflect.Map:
		if s, ok := v.(string); ok {
			return s, nil // one, as on a command line
		}
		table, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New(`it is a table of texts ({name = "value"})`)
		}
		texts := make(map[string]any, len(table))
		for k, v := range table {
			if texts[k], ok = v.(string); !ok {
				return nil, fmt.Errorf("%s: it is a text in quotes", k)
			}
		}
		return texts, nil
	case t.Kind() == reflect.Slice && many:
		texts := make([]any, len(list))
		for i, v := range list {
			text, err := fitOne(t.Elem(), v)
			if err != nil {
				return nil, err
			}
			texts[i] = text
		}
		return texts, nil
	case t.Kind() == reflect.Slice:
		// A text may have several, as on a command line.
		if s, ok := v.(string); ok {
			return s, nil
		}
		return fitOne(t.Elem(), v)
	}
	return fitOne(t, v)
}

func fitOne(t reflect.Type, v any) (string, error) {
	value, reads := reflect.New(t).Interface().(encoding.TextUnmarshaler)
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case int64:
		if t.Kind() == reflect.String && !reads {
			return "", errors.New("it is a text in quotes")
		}
		text = strconv.FormatInt(v, 10)
	case float64:
		if t.Kind() == reflect.String && !reads {
			return "", errors.New("it is a text in quotes")
		}
		if t.Kind() != reflect.Float64 {
			return "", errors.New("it is a whole number")
		}
		text = strconv.FormatFloat(v, 'g', -1, 64)
	default:
		return "", errors.New("it is a single text or number")
	}
	if reads {
		return text, value.UnmarshalText([]byte(text))
	}
	return text, nil
}

// fromConfig has an error that is about a flag name the file which sets that.
func (a *app) fromConfig(err error) error {
	if c, ok := errors.AsType[*configError](err); ok {
		return c
	}
	text := err.Error()
	for flag, file := range a.configured {
		_, after, named := strings.Cut(text, "--"+flag)
		if named && !strings.HasPrefix(after, "-") && !strings.Contains(text, "\n") && !strings.Contains(text, file) {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return err
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
	known["help"], known["config"] = false, false // which a file cannot ask for
	var unknown []string
	for key := range f.values {
		if !known[key] {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}
