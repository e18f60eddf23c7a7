package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Whatever is in a config file, it is refused or gives flags what could stand on a command
// line: nothing in it ends the process.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"jobs = 4\nload = 2.5\ntimeout = \"90s\"\njson = true\nmax-log-size = \"10M\"\n",
		"policy = [\"uid:0=deny\", \"all=build\"]\ndeny-uid = 0\nsandbox-path = ['/a=/b']\n",
		"timeout = 0\njobs = 0x1F\nload = nan\nstate = 1979-05-27T07:32:00Z\n",
		"[jobs]\na = 1\n[[load]]\nb.c = {d = [1, \"2\", [3.0]]}\n",
		"\xef\xbb\xbf\"\\u00e9\" = \"\"\"\na\\\n b\"\"\" # comment\n",
	} {
		f.Add([]byte(seed))
	}
	parser, err := kong.New(&cli{}, kong.ExplicitGroups(groups()), vars())
	if err != nil {
		f.Fatal(err)
	}
	var flags []*kong.Flag
	_ = kong.Visit(parser.Model, func(v kong.Visitable, next kong.Next) error {
		if flag, ok := v.(*kong.Flag); ok {
			flags = append(flags, flag)
		}
		return next(nil)
	})
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > maxConfig {
			return
		}
		c, err := parseConfig("file", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "file: ") {
				t.Errorf("%q does not name the file", err)
			}
			return
		}
		c.set = map[string]string{}
		for _, flag := range flags {
			v, err := c.Resolve(nil, nil, flag)
			if err == nil && (v != nil) != (c.set[flag.Name] != "") {
				t.Errorf("%s: %v, and it is set by %q", flag.Name, v, c.set[flag.Name])
			}
			switch v.(type) {
			case nil, bool, string, int64, []any, map[string]any:
			default:
				t.Errorf("%s: a %T", flag.Name, v)
			}
		}
	})
}
