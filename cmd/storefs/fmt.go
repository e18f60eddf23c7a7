package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"storefs/instantiate"
)

type fmtCmd struct {
	Files []string `arg:"" optional:"" name:"file" help:"Starlark files. Without any: standard input to standard output."`
	List  bool     `short:"l" help:"Change nothing; print the files that would be changed, and end with status 1 if there are any."`
}

func (c *fmtCmd) Run(ctx context.Context, a *app) error {
	if len(c.Files) == 0 {
		src, err := io.ReadAll(&flow{ctx: ctx, file: a.stdin})
		if err != nil {
			return badInput(err)
		}
		out, err := instantiate.Format("standard input", src)
		if err != nil {
			return badInput(err)
		}
		_, err = (&flow{ctx: ctx, file: a.stdout}).Write(out)
		return err
	}
	var changed []string
	for _, f := range c.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		different, err := c.format(ctx, f)
		if err != nil {
			return err
		}
		if different {
			changed = append(changed, f)
		}
	}
	if !c.List && !a.JSON {
		return nil
	}
	if err := printLines(a, changed); err != nil || !c.List || len(changed) == 0 {
		return err
	}
	return &quietError{errors.New("some files are not formatted")}
}

// format rewrites the file, or only tells whether it would be another.
func (c *fmtCmd) format(ctx context.Context, name string) (different bool, err error) {
	src, err := await(ctx, func() ([]byte, error) { return os.ReadFile(name) })
	if err != nil {
		return false, badInput(err)
	}
	out, err := instantiate.Format(name, src)
	if err != nil {
		return false, badInput(err)
	}
	if bytes.Equal(src, out) || c.List {
		return !bytes.Equal(src, out), nil
	}
	if err := replaceFile(name, out); err != nil {
		return false, fmt.Errorf("format %s: %w", name, err)
	}
	return true, nil
}

// replaceFile writes a file anew, so that it is never half written: also after a power
// failure, before which a rename may have come to the disk and what was written not, as on
// XFS.
func replaceFile(name string, data []byte) error {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".storefs-fmt-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it was renamed
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	// What root formats stays its user's. Others may not give files away.
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(st.Uid), int(st.Gid))
	}
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
