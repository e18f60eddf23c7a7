package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// roots are the links in the directory of roots that lead to a path which is p
// or needs it; all links if p is "".
func (l *library) roots(p store.Path) ([]store.Path, error) {
	var links []store.Path
	err := l.walkRoots(func(link string, root store.Path) error {
		keeps, err := l.keeps(root, p)
		if keeps {
			links = append(links, store.Path(link))
		}
		return err
	})
	return links, err
}

// walkRoots calls f with each link in the directory of roots that leads to a path,
// and with that.
func (l *library) walkRoots(f func(link string, root store.Path) error) error {
	err := filepath.WalkDir(l.state.Roots(), func(name string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type() != iofs.ModeSymlink {
			return nil
		}
		root, err := follow(l.state.Store(), name)
		if err != nil || root == "" {
			return err
		}
		return f(name, root)
	})
	if err != nil {
		return fmt.Errorf("list roots: %w", err)
	}
	return nil
}

// maxLinks is how many links a path may lead through in Linux.
const maxLinks = 40

// follow returns the path of the store that the link name leads to, by other links
// or at once; "" if there is none. Nothing in the store is looked at, as that would
// realise it.
func follow(dir store.Dir, name string) (store.Path, error) {
	for range maxLinks {
		target, err := os.Readlink(name)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return "", nil // it leads to nothing, or elsewhere
		case err != nil:
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = name[:strings.LastIndexByte(name, '/')+1] + target
		}
		if root, _, err := dir.Split(filepath.Clean(target)); err == nil {
			return root, nil
		}
		name = target
	}
	return "", nil
}

func (l *library) keeps(root, p store.Path) (bool, error) {
	if p == "" {
		return true, nil
	}
	infos, err := l.state.DB().Requisites([]store.Path{root})
	if errors.Is(err, store.ErrNotValid) {
		return root == p, nil
	}
	return slices.ContainsFunc(infos, func(i store.Info) bool { return i.Path == p }), err
}
