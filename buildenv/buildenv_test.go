package buildenv

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A forest is packages in a directory: names, which are of files, or directories if they
// end in a slash, or links with " -> " and what they lead to, or files with " = " and what
// is in them. TOP is the directory.
func forest(t *testing.T, list ...string) (top string) {
	t.Helper()
	top = t.TempDir()
	for _, line := range list {
		line = strings.ReplaceAll(line, "TOP", top)
		name, target, link := strings.Cut(line, " -> ")
		name, content, _ := strings.Cut(name, " = ")
		p := filepath.Join(top, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case link:
			err = os.Symlink(target, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

// made is the environment of derivations, as a forest of which nothing is in TOP but the
// packages, and what was said.
func made(t *testing.T, top, derivations string) (list []string, log string, err error) {
	t.Helper()
	out := filepath.Join(top, "out")
	if err := os.RemoveAll(out); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	err = Request{Derivations: strings.ReplaceAll(derivations, "TOP", top), Manifest: "/manifest", Output: out}.make(&said)
	if err != nil {
		return nil, said.String(), err
	}
	walk := func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == out {
			return err
		}
		line := strings.TrimPrefix(p, out+"/")
		if e.IsDir() {
			line += "/"
		} else if target, err := os.Readlink(p); err == nil {
			line += " -> " + strings.ReplaceAll(target, top, "TOP")
		}
		list = append(list, line)
		return nil
	}
	if err := filepath.WalkDir(out, walk); err != nil {
		t.Fatal(err)
	}
	if last := "manifest.nix -> /manifest"; !slices.Contains(list, last) {
		t.Errorf("no %s in %q", last, list)
	}
	return slices.DeleteFunc(list, func(line string) bool { return strings.HasPrefix(line, "manifest.nix -> ") }), strings.ReplaceAll(said.String(), top, "TOP"), nil
}

func TestMake(t *testing.T) {
	for name, test := range map[string]struct {
		packages    []string
		derivations string
		want        []string
		log         string
	}{
		"nothing":            {},
		"one":                {[]string{"a/bin/x", "a/y", "a/z -> y"}, "true 5 1 TOP/a", []string{"bin -> TOP/a/bin", "y -> TOP/a/y", "z -> TOP/a/z"}, ""},
		"merged":             {[]string{"a/x/y/a", "b/x/y/b", "a/p", "b/x/q"}, "true 5 2 TOP/a TOP/b", []string{"p -> TOP/a/p", "x/", "x/q -> TOP/b/x/q", "x/y/", "x/y/a -> TOP/a/x/y/a", "x/y/b -> TOP/b/x/y/b"}, ""},
		"merged links":       {[]string{"a/x -> ../b", "b/y -> ../c", "c/c", "d/x/y/d"}, "true 5 1 TOP/a true 5 1 TOP/d", []string{"x/", "x/y/", "x/y/c -> TOP/c/c", "x/y/d -> TOP/d/x/y/d"}, ""},
		"priorities":         {[]string{"a/x", "b/x", "c/x"}, "true 7 1 TOP/a true -3 1 TOP/b true 4 1 TOP/c", []string{"x -> TOP/b/x"}, ""},
		"merged priorities":  {[]string{"a/d/x", "b/d/x", "c/d/x", "c/d/y"}, "true 7 1 TOP/a true 3.9 1 TOP/b true 4 1 TOP/c", []string{"d/", "d/x -> TOP/b/d/x", "d/y -> TOP/c/d/y"}, ""},
		"inactive":           {[]string{"a/x", "b/x"}, "false 1 1 TOP/a true 5 1 TOP/b", []string{"x -> TOP/b/x"}, ""},
		"twice":              {[]string{"a/x", "b/x"}, "true 1 1 TOP/b true 2 1 TOP/a true 0 1 TOP/a", []string{"x -> TOP/a/x"}, ""},
		"file for directory": {[]string{"a/x/y", "b/x"}, "true 1 1 TOP/a true 2 1 TOP/b", []string{"x -> TOP/a/x"}, ""},
		"hidden":             {[]string{"a/.x", "a/x/.y"}, "true 1 1 TOP/a", []string{"x -> TOP/a/x"}, ""},
		"useless":            {[]string{"a/log", "a/x/log", "b/x/nix-support/", "b/x/perllocal.pod", "b/x/blog", "b/info/dir", "a/info/dir", "a/manifest.nix", "a/manifest.json", "b/propagated-build-inputs"}, "true 1 2 TOP/a TOP/b", []string{"info/", "x/", "x/blog -> TOP/b/x/blog"}, ""},
		"dangling":           {[]string{"a/d/x -> y", "b/d/z -> y/z", "b/d/y"}, "true 1 2 TOP/a TOP/b", []string{"d/", "d/y -> TOP/b/d/y"}, "warning: skipping dangling symlink 'TOP/out/d/x'\nwarning: skipping dangling symlink 'TOP/out/d/z'\n"},
		"no directory":       {[]string{"a", "b/x", "c -> b"}, "true 1 2 TOP/a TOP/c", []string{"x -> TOP/c/x"}, "warning: not including 'TOP/a' in the user environment because it's not a directory\n"},
		"propagated": {
			[]string{"a" + propagated + " = TOP/d  TOP/c\n", "c/x", "c" + propagated + " = TOP/b\n TOP/a", "b/x", "b/y", "d/x", "d/y", "e/y"},
			"true 5 1 TOP/a false 5 1 TOP/b true 2000 1 TOP/e",
			[]string{"x -> TOP/c/x", "y -> TOP/d/y"},
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, log, err := made(t, forest(t, test.packages...), test.derivations)
			if err != nil || !slices.Equal(got, test.want) || log != test.log {
				t.Errorf("%v\ngot  %q\nwant %q\nlog %q", err, got, test.want, log)
			}
		})
	}
}

func TestMakeFails(t *testing.T) {
	const set = "; use 'nix-env --set-flag priority NUMBER INSTALLED_PKGNAME' to change the priority of one of the conflicting packages (0 being the highest priority)"
	for name, test := range map[string]struct {
		packages          []string
		derivations, want string
	}{
		"conflict":            {[]string{"a/x/y", "b/x/y"}, "true 5 2 TOP/a TOP/b", "packages 'TOP/b/x/y' and 'TOP/a/x/y' have the same priority 5" + set},
		"conflict in link":    {[]string{"a/x -> ../c", "c/y", "b/x/y"}, "true 5 2 TOP/b TOP/a", "packages 'TOP/b/x/y' and 'TOP/c/y' have the same priority 5" + set},
		"file for directory":  {[]string{"a/x/y", "b/x/z", "c/x"}, "true 5 2 TOP/a TOP/b true 9 1 TOP/c", "collision between non-directory 'TOP/c/x' and directory 'TOP/out/x'"},
		"directory for file":  {[]string{"a/x -> y", "a/y", "b/x/z"}, "true 5 1 TOP/a true 9 1 TOP/b", "collision between 'TOP/b/x' and non-directory 'TOP/a/y'"},
		"loop":                {[]string{"a/x -> x"}, "true 5 1 TOP/a", "getting status of 'TOP/a/x': too many levels of symbolic links"},
		"missing":             {nil, "true 5 1 TOP/a", "opening directory 'TOP/a': no such file or directory"},
		"propagated missing":  {[]string{"a" + propagated + " = TOP/b"}, "true 5 1 TOP/a", "opening directory 'TOP/b': no such file or directory"},
		"propagated conflict": {[]string{"a" + propagated + " = TOP/a TOP/b", "a/x", "b/x"}, "true 1000 1 TOP/a", "packages 'TOP/b/x' and 'TOP/a/x' have the same priority 1000" + set},
		"propagated unread":   {[]string{"a" + propagated + "/x"}, "true 5 1 TOP/a", "opening file 'TOP/a" + propagated + "': is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			top := forest(t, test.packages...)
			_, _, err := made(t, top, test.derivations)
			if err == nil || strings.ReplaceAll(err.Error(), top, "TOP") != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "[]",
		" true 5 0\r\n\tfalse +7x 1 /a ": "[{/a false 7}]",
		"yes -1.5 2 /b /a":               "[{/b true -1} {/a true -1}]",
		"true 5":                         "its last package has no number of paths",
		"true 5 1":                       "a package of 1 paths, and 0 words follow",
		"true 5 -1 /a":                   "a package of -1 paths, and 1 words follow",
		"true - 1 /a":                    `priority "-": it is no number`,
		"true x 1 /a":                    `priority "x": it is no number`,
		"true 5 /a /b":                   `number of paths "/a": it is no number`,
		"true 2147483648 1 /a":           `priority "2147483648": it is too large`,
		"true 1 99999999999999999999":    `number of paths "99999999999999999999": it is too large`,
	} {
		packages, err := parse(text)
		got := fmt.Sprint(packages)
		if err != nil {
			got = strings.TrimPrefix(err.Error(), "attribute 'derivations' is malformed: ")
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// Whatever there is to parse, paths are words of it, in their order.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"true 5 1 /a", "false -1.5 2 /a /b\ntrue +3 0", "true 5 2 /a", "x y z", "true - 1 /a", "true 5 -1", "true 2147483648 1 /a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		packages, err := parse(text)
		if err != nil && (packages != nil || strings.Contains(err.Error(), "\n")) {
			t.Fatalf("%q with %v", err, packages)
		}
		words := strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" \t\n\r", c) })
		for _, p := range packages {
			i := slices.Index(words, p.path)
			if i < 0 {
				t.Fatalf("%q is no word of %q, or not where it should be", p.path, text)
			}
			words = words[i+1:]
		}
	})
}
