package builder

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// attachment is a mount that nobody sees yet, and its place in a sandbox.
type attachment struct {
	fd     int
	inside string
}

// attach mounts what a sandbox for l has beside its copy of the template. Only the
// thread that called enter may do this: it goes to the mount namespace of the
// sandbox, which its process, without any right, could not change itself.
func (m *sandboxMaker) attach(s *sandbox, l *launch) (err error) {
	if l == nil {
		return nil
	}
	mounts, err := m.mounts(l)
	if err != nil {
		return err
	}
	defer func() {
		for _, a := range mounts {
			unix.Close(a.fd)
		}
	}()
	if err := unix.Setns(s.mounts, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace: %w", err)
	}
	defer func() {
		if unix.Setns(m.home, unix.CLONE_NEWNS) != nil {
			os.Exit(1) // there is nothing left to make sandboxes of
		}
	}()
	for _, a := range mounts {
		if a.inside == m.store {
			if err := m.makeStoreDir(); err != nil {
				return err
			}
		}
		if err := unix.MoveMount(a.fd, "", unix.AT_FDCWD, a.inside, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", a.inside, err)
		}
	}
	return nil
}

// mounts are what a sandbox for l has beside its copy of the template.
func (m *sandboxMaker) mounts(l *launch) (mounts []attachment, err error) {
	defer func() {
		if err != nil {
			for _, a := range mounts {
				unix.Close(a.fd)
			}
			mounts = nil
		}
	}()
	add := func(outside, inside string) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, outside, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == nil {
			mounts = append(mounts, attachment{fd, inside})
		}
		return err
	}
	scratch := path.Join(buildsDir, l.scratch)
	for _, d := range []struct{ outside, inside string }{{"build", buildDir}, {"tmp", "/tmp"}} {
		if err := add(path.Join(scratch, d.outside), d.inside); err != nil {
			return mounts, fmt.Errorf("bind %s: %w", d.inside, err)
		}
	}
	if len(l.inputs) > directInputs {
		fd, err := m.trees.clone(l)
		if err == nil {
			mounts = append(mounts, attachment{fd, m.store})
		}
		return mounts, err
	}
	m.trees.forget(l.number)
	if err := add(l.storeDir(), m.store); err != nil {
		return mounts, fmt.Errorf("bind %s: %w", m.store, err)
	}
	for _, base := range l.inputs {
		if err := add(realDir+"/"+base, path.Join(m.store, base)); err != nil {
			return mounts, fmt.Errorf("input %s: %w", base, err)
		}
	}
	return mounts, nil
}

// makeStoreDir makes the store directory where it is below a directory that is
// the builder's own.
func (m *sandboxMaker) makeStoreDir() error {
	for _, own := range []string{buildDir, "/tmp"} {
		if strings.HasPrefix(m.store, own+"/") {
			return os.MkdirAll(m.store, 0o755)
		}
	}
	return nil
}
