package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"storefs/tree"
)

// keptPrefix begins the names in builds/ of failed builds that their user wanted
// to look at. They are his to remove.
const keptPrefix = "kept-"

// Kept are those of the state directory dir.
func Kept(dir string) ([]string, error) {
	builds := filepath.Join(dir, "builds")
	entries, err := os.ReadDir(builds)
	if err != nil {
		return nil, fmt.Errorf("look for what was kept: %w", err)
	}
	var kept []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), keptPrefix) {
			kept = append(kept, filepath.Join(builds, e.Name()))
		}
	}
	return kept, nil
}

// IsKept reports whether path, which need not be there and is not looked at, is the name of
// one.
func IsKept(dir, path string) bool {
	path, err := filepath.Abs(path)
	if err != nil || !strings.HasPrefix(filepath.Base(path), keptPrefix) {
		return false
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return false
	}
	real, _ := filepath.EvalSymlinks(dir) // builds are told that one
	builds := filepath.Dir(path)
	return builds == filepath.Join(dir, "builds") || builds == filepath.Join(real, "builds")
}

// KeptScratch is one of those, and what is known of it.
type KeptScratch struct {
	Path  string    `json:"path"`
	Since time.Time `json:"since"` // when it was kept, unless somebody has changed what is at its top
	Size  int64     `json:"size"`  // bytes that it takes up on disk
	// Partial says that some of it could not be looked at: it is larger.
	Partial bool `json:"partial,omitempty"`
}

// MeasureKept looks at those of the state directory dir. What is removed meanwhile is left
// out.
func MeasureKept(ctx context.Context, dir string) ([]KeptScratch, error) {
	paths, err := Kept(dir)
	if err != nil {
		return nil, err
	}
	all := make([]KeptScratch, 0, len(paths))
	for _, p := range paths {
		k := KeptScratch{Path: p}
		st, err := os.Lstat(p)
		if err == nil {
			k.Since = st.ModTime() // it loses a directory when it is kept
			var whole bool
			k.Size, whole, err = tree.Size(ctx, p)
			k.Partial = !whole
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("measure what was kept: %w", err)
		}
		all = append(all, k)
	}
	slices.SortStableFunc(all, func(a, b KeptScratch) int { return a.Since.Compare(b.Since) })
	return all, nil
}

func notKept(names []string) ([]string, error) {
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, keptPrefix) }), nil
}
