package buildenv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// links is a tree of links while it is made.
type links struct {
	priorities map[string]int // of each link
	log        io.Writer
}

// unwanted are the ends of names that are left out: what is of no use in a user
// environment, or what each package has another one of. "/log" is one of them everywhere.
func unwanted() []string {
	return []string{"/propagated-build-inputs", "/nix-support", "/perllocal.pod", "/info/dir", "/log", "/manifest.nix", "/manifest.json"}
}

// add makes in the directory dst a link to each thing in src.
func (l *links) add(src, dst string, priority int) error {
	entries, err := os.ReadDir(src)
	if errors.Is(err, unix.ENOTDIR) {
		fmt.Fprintf(l.log, "warning: not including '%s' in the user environment because it's not a directory\n", src)
		return nil
	}
	if err != nil {
		return failure("opening directory", src, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := l.addOne(src+"/"+e.Name(), dst+"/"+e.Name(), priority); err != nil {
			return err
		}
	}
	return nil
}

// addOne makes dst a link to src; or, if both are directories, a directory with links to
// what is in either.
func (l *links) addOne(src, dst string, priority int) error {
	source, err := os.Stat(src)
	if isAbsent(err) {
		fmt.Fprintf(l.log, "warning: skipping dangling symlink '%s'\n", dst)
		return nil
	}
	if err != nil {
		return failure("getting status of", src, err)
	}
	if slices.ContainsFunc(unwanted(), func(end string) bool { return strings.HasSuffix(src, end) }) {
		return nil
	}
	there, err := os.Lstat(dst)
	switch {
	case isAbsent(err):
	case err != nil:
		return failure("getting status of", dst, err)
	case source.IsDir() && there.IsDir():
		return l.add(src, dst, priority)
	case source.IsDir():
		if err := l.open(src, dst); err != nil {
			return err
		}
		return l.add(src, dst, priority)
	case there.IsDir():
		return fmt.Errorf("collision between non-directory '%s' and directory '%s'", src, dst)
	default:
		if have := l.priorities[dst]; have == priority {
			return l.conflict(src, dst, priority)
		} else if have < priority {
			return nil
		}
		if err := os.Remove(dst); err != nil {
			return failure("unlinking", dst, err)
		}
	}
	if err := os.Symlink(src, dst); err != nil {
		return err
	}
	l.priorities[dst] = priority
	return nil
}

// open makes of the link dst, whose name the directory src wants to have as well, a
// directory with links to what is in the one that it leads to.
func (l *links) open(src, dst string) error {
	target, err := filepath.EvalSymlinks(dst)
	if err != nil {
		return failure("getting status of", dst, err)
	}
	st, err := os.Lstat(target)
	if err != nil {
		return failure("getting status of", target, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("collision between '%s' and non-directory '%s'", src, target)
	}
	if err := os.Remove(dst); err != nil {
		return failure("unlinking", dst, err)
	}
	if err := os.Mkdir(dst, 0o755); err != nil {
		return failure("creating directory", dst, err)
	}
	return l.add(target, dst, l.priorities[dst])
}

func (l *links) conflict(src, dst string, priority int) error {
	have, err := os.Readlink(dst)
	if err != nil {
		return err
	}
	return fmt.Errorf("packages '%s' and '%s' have the same priority %d; use 'nix-env --set-flag priority NUMBER INSTALLED_PKGNAME' "+
		"to change the priority of one of the conflicting packages (0 being the highest priority)", src, have, priority)
}
