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

// binding is what is mounted, by its name in the spawner's root, and where; what is ""
// for an input.
type binding struct{ outside, inside, what string }

// attachedAtOnce is the most mounts that take up descriptors at a time.
const attachedAtOnce = 200

// attach mounts what a sandbox for l has beside its copy of the template. Only the
// thread that made m may do this: it goes to the mount namespace of the sandbox,
// which its process, without any right, could not change itself.
func (m *sandboxMaker) attach(s *sandbox, l *launch) error {
	if l == nil {
		return nil
	}
	for rest := m.bindings(l); len(rest) > 0; {
		n := min(len(rest), attachedAtOnce)
		mounts, err := open(rest[:n])
		if err == nil {
			err = m.move(mounts, s.space.mounts)
		}
		for _, a := range mounts {
			unix.Close(a.fd)
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// bindings are the scratch directory and the inputs of l.
func (m *sandboxMaker) bindings(l *launch) []binding {
	scratch := path.Join(buildsDir, l.scratch)
	b := append(make([]binding, 0, 3+len(l.inputs)),
		binding{scratch + "/build", buildDir, "bind " + buildDir},
		binding{scratch + "/tmp", "/tmp", "bind /tmp"},
		binding{scratch + "/store", m.store, "bind " + m.store})
	for _, base := range l.inputs {
		b = append(b, binding{realDir + "/" + base, m.store + "/" + base, ""})
	}
	return b
}

// open makes mounts, which are the caller's even if it fails.
func open(list []binding) (mounts []attachment, err error) {
	mounts = make([]attachment, 0, len(list))
	for _, b := range list {
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.outside, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			err = namespaceErrno(unix.SYS_OPEN_TREE, errnoOf(err))
		}
		if err != nil && b.what == "" {
			return mounts, inputError(path.Base(b.outside), err)
		}
		if err != nil {
			return mounts, fmt.Errorf("%s: %w", b.what, err)
		}
		mounts = append(mounts, attachment{fd, b.inside})
	}
	return mounts, nil
}

// move puts mounts into a mount namespace.
func (m *sandboxMaker) move(mounts []attachment, to int) error {
	if err := unix.Setns(to, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace: %w", err)
	}
	defer func() {
		if unix.Setns(m.home, unix.CLONE_NEWNS) != nil {
			os.Exit(1) // there is nothing left to make sandboxes of
		}
	}()
	for _, a := range mounts {
		if a.inside == m.store && inOwnDir(m.store) {
			if err := os.MkdirAll(m.store, 0o755); err != nil {
				return err
			}
		}
		if err := unix.MoveMount(a.fd, "", unix.AT_FDCWD, a.inside, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", a.inside, err)
		}
	}
	return nil
}

// inOwnDir reports whether dir is below a directory that is the builder's own, and
// so has to be made for every build.
func inOwnDir(dir string) bool {
	return strings.HasPrefix(dir, buildDir+"/") || strings.HasPrefix(dir, "/tmp/")
}
