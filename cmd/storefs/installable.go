package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"storefs/daemon"
	"storefs/instantiate"
	"storefs/progress"
	"storefs/store"
)

// installable is something that can be realised.
type installable struct {
	// target is what is asked for: a store expression, or another path.
	target store.Path
	// path is the output that was meant, "" if all of target's are.
	path store.Path
	// below is what was named in it: "/bin/hello".
	below string
}

// named is the path that questions about the installable are about.
func (i installable) named() store.Path {
	if i.path != "" {
		return i.path
	}
	return i.target
}

// argFlags are the arguments of Starlark files.
type argFlags struct {
	Arg map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"What arg(NAME) gives in a Starlark file. May be repeated."`
}

// installables reads what a command line names. Store expressions that are not
// in the store yet are put there. A store object is meant itself, even if it is called
// like a Starlark file: who deletes that means nothing that it would make.
func (a *app) installables(ctx context.Context, c *daemon.Client, args []string, f argFlags) ([]installable, error) {
	return a.read(ctx, c, args, f, func(file string) bool { return !isObject(c, file) })
}

// read reads what a command line names; evaluated says of a Starlark file of which no
// target is named whether it is one.
func (a *app) read(ctx context.Context, c *daemon.Client, args []string, f argFlags, evaluated func(file string) bool) ([]installable, error) {
	var all []installable
	unused := map[string]int{}
	files := 0
	for _, arg := range args {
		if file, target, ok := instantiate.SplitTarget(arg); ok && (target != "" || evaluated(file)) {
			plan, err := a.evaluate(ctx, c, file, target, f)
			if err != nil {
				return nil, err
			}
			files++
			for _, name := range plan.Unused {
				unused[name]++
			}
			for _, t := range plan.Targets {
				all = append(all, ofTarget(t))
			}
			continue
		}
		i, err := a.installable(ctx, c, arg)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	for name := range f.Arg {
		if unused[name] == files {
			return nil, badInputf("--arg %s: no file asks for it", name)
		}
	}
	return all, nil
}

// isObject: name is that of a whole store object.
func isObject(c *daemon.Client, name string) bool {
	name, err := filepath.Abs(name)
	if err != nil {
		return false
	}
	_, below, err := c.Hello().Store.Split(name)
	return err == nil && below == ""
}

func ofTarget(t instantiate.Target) installable {
	if t.Drv == "" {
		return installable{target: t.Path}
	}
	return installable{target: t.Drv, path: t.Path}
}

// installable reads an argument that is not a Starlark file.
func (a *app) installable(ctx context.Context, c *daemon.Client, arg string) (installable, error) {
	dir := c.Hello().Store
	name, err := filepath.Abs(arg)
	if err != nil {
		return installable{}, badInput(err)
	}
	if strings.HasPrefix(name, string(dir)+"/") {
		p, below, err := dir.Split(name)
		if err != nil {
			return installable{}, badInput(err)
		}
		if p.IsExpr() && below == "" {
			return installable{target: p}, nil
		}
		return installable{target: p, path: p, below: below}, nil
	}
	if !isExprFile(arg) {
		return installable{}, badInputf("%s: not in the store %s, and no .star, .drv or .store file", arg, dir)
	}
	paths, err := a.importExprs(ctx, c, []string{arg})
	if err != nil {
		return installable{}, err
	}
	return installable{target: paths[0]}, nil
}

// named reads what a command line names, for questions about just that.
func (a *app) named(ctx context.Context, c *daemon.Client, args []string, f argFlags) ([]store.Path, error) {
	all, err := a.installables(ctx, c, args, f)
	paths := make([]store.Path, len(all))
	for i := range all {
		paths[i] = all[i].named()
	}
	return paths, err
}

// storePaths reads arguments that are paths in the store, or below one.
func storePaths(c *daemon.Client, args []string) ([]store.Path, error) {
	var all []store.Path
	for _, arg := range args {
		name, err := filepath.Abs(arg)
		if err != nil {
			return nil, badInput(err)
		}
		p, _, err := c.Hello().Store.Split(name)
		if err != nil {
			return nil, badInput(err)
		}
		all = append(all, p)
	}
	return all, nil
}

func isExprFile(name string) bool {
	return strings.HasSuffix(name, ".drv") || strings.HasSuffix(name, ".store")
}

// importExprs takes in expressions from files on disk. What is registered already
// needs no reading.
func (a *app) importExprs(ctx context.Context, c *daemon.Client, files []string) ([]store.Path, error) {
	paths := make([]store.Path, len(files))
	var names []string
	var at []int // where in paths those of names belong
	for i, f := range files {
		name, err := await(ctx, func() (string, error) { return filepath.EvalSymlinks(f) })
		if err == nil {
			name, err = filepath.Abs(name)
		}
		if err != nil {
			return nil, badInput(err)
		}
		if strings.HasPrefix(name, string(c.Hello().Store)+"/") {
			if paths[i], err = a.registered(ctx, c, name); err != nil {
				return nil, err
			}
		}
		if paths[i] != "" {
			continue
		}
		if _, err := await(ctx, func() (struct{}, error) { return struct{}{}, readable(name) }); err != nil {
			return nil, badInput(err)
		}
		names, at = append(names, name), append(at, i)
	}
	if len(names) == 0 {
		return paths, nil
	}
	imported, err := c.ImportExprs(ctx, names)
	if errors.Is(err, store.ErrNotValid) || errors.Is(err, store.ErrUnknown) {
		return nil, badInput(err) // an input is missing
	}
	if err != nil {
		return nil, err
	}
	for i, p := range imported {
		paths[at[i]] = p
	}
	return paths, nil
}

// registered is name, which lies in the store directory, as a path, or "" if it is not
// registered: a store directory that is not mounted may be that of Nix.
func (a *app) registered(ctx context.Context, c *daemon.Client, name string) (store.Path, error) {
	if p, below, err := c.Hello().Store.Split(name); err == nil && below == "" {
		missing, err := c.Missing(ctx, []store.Path{p})
		if err != nil {
			return "", err
		}
		if len(missing) == 0 {
			return p, nil
		}
	}
	// The owner reads it, which must not be sent into its own mount.
	if c.Hello().Mountpoint != "" {
		return "", badInputf("%s: it is in the mount, and no store expression there", name)
	}
	return "", nil
}

// readable is the error with which a file would be read.
func readable(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1)) // a directory can be opened
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// evaluate evaluates a Starlark file and puts what its targets need into the
// store.
func (a *app) evaluate(ctx context.Context, c *daemon.Client, file, target string, f argFlags) (*instantiate.Plan, error) {
	name, err := filepath.Abs(file)
	if err != nil {
		return nil, badInput(err)
	}
	plan, err := instantiate.Eval(ctx, instantiate.Options{
		Dir:    c.Hello().Store,
		File:   name,
		Target: target,
		Args:   f.Arg,
		Print: func(text string) {
			for line := range strings.Lines(text) {
				fmt.Fprintln(a.news(), progress.Clean(strings.TrimSuffix(line, "\n")))
			}
		},
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, badInput(err)
	}
	return plan, plan.Write(ctx, planWriter{c})
}

// planWriter is the store as instantiate sees it.
type planWriter struct{ client *daemon.Client }

var _ instantiate.Writer = planWriter{}

func (w planWriter) Missing(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	return w.client.Missing(ctx, paths)
}

// MissingExprs: an owner that is too old for the question gets all of them, as it did.
func (w planWriter) MissingExprs(ctx context.Context, exprs []*instantiate.Expr) ([]store.Path, error) {
	declared := make([]daemon.Declaration, len(exprs))
	for i, x := range exprs {
		declared[i] = daemon.Declaration{Path: x.Path, Kinds: x.Kinds}
	}
	missing, err := w.client.MissingExprs(ctx, declared)
	if errors.Is(err, daemon.ErrOtherVersion) {
		missing, err = nil, nil
		for _, x := range exprs {
			missing = append(missing, x.Path)
		}
	}
	return missing, err
}

func (w planWriter) AddSource(ctx context.Context, name string, dump func(io.Writer) error) (store.Path, error) {
	info, err := addNAR(ctx, w.client, name, true, dump)
	return info.Path, err
}

func (w planWriter) AddTexts(ctx context.Context, texts []*instantiate.Text) error {
	all := make([]daemon.Text, len(texts))
	for i, t := range texts {
		all[i] = daemon.Text{Name: t.Name, Text: []byte(t.Content), References: t.References}
	}
	paths, err := w.client.AddTexts(ctx, all)
	if err != nil {
		return err
	}
	for i, p := range paths {
		if p != texts[i].Path {
			return fmt.Errorf("%s became %s", texts[i].Path, p)
		}
	}
	return nil
}

func (w planWriter) AddExprs(ctx context.Context, exprs []*instantiate.Expr) error {
	all := make([]daemon.Text, len(exprs))
	for i, e := range exprs {
		all[i] = daemon.Text{Name: e.Name, Text: e.Text(), Kinds: e.Kinds}
	}
	paths, err := w.client.AddExprs(ctx, all)
	if err != nil {
		return err
	}
	for i, p := range paths {
		if p != exprs[i].Path {
			return fmt.Errorf("%s became %s", exprs[i].Path, p)
		}
	}
	return nil
}

// addNAR sends what dump writes.
func addNAR(ctx context.Context, c *daemon.Client, name string, recursive bool, dump func(io.Writer) error) (store.Info, error) {
	r, w := io.Pipe()
	dumped := make(chan struct{})
	go func() {
		defer close(dumped)
		w.CloseWithError(dump(w))
	}()
	info, err := c.AddNAR(ctx, name, recursive, store.SHA256, r)
	r.CloseWithError(os.ErrClosed) // ends a dump that nobody reads any more
	<-dumped
	return info, err
}

// unique keeps the first of equal paths.
func unique(paths []store.Path) []store.Path {
	seen := make(map[store.Path]bool, len(paths))
	var out []store.Path
	for _, p := range paths {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}
