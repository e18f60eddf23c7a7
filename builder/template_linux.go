package builder

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// makeTemplate makes the mount namespace that sandboxes are copied from: all that
// is the same in each of them, and nothing of the host. The result is its
// descriptor. What a sandbox has for itself is mounted in its copy.
func makeTemplate(c *spawnerConfig) (ns int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread cannot come back from the namespace, and ends with this
		// function.
		runtime.LockOSThread()
		ns, err = c.template()
	}()
	<-done
	return ns, err
}

func (c *spawnerConfig) template() (ns int, err error) {
	if err := leaveMounts(); err != nil {
		return -1, err
	}
	// With the mounts, the thread has left the umask of the others.
	unix.Umask(0)
	if c.Nobody {
		// Raw calls are of this thread alone. These return what was before.
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, sandboxNobody, 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, sandboxNobody, 0, 0)
	}
	// Any directory will do to put the root over, if nothing below it is needed.
	if err := newRoot(c.Builds); err != nil {
		return -1, err
	}
	s := &spec{Devices: c.Devices}
	if err := s.makeFixed(); err != nil {
		return -1, err
	}
	// The kernel gives a process that is not the host's root a /proc only where
	// it could see one already. Each sandbox puts its own over this.
	if err := mount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return -1, err
	}
	for _, d := range []string{buildDir, "/tmp", c.Store} {
		if err := os.MkdirAll(d[1:], 0o755); err != nil {
			return -1, err
		}
	}
	if err := pivot(); err != nil {
		return -1, err
	}
	ns, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the mount namespace: %w", err)
	}
	return ns, nil
}

// newRoot puts an empty file system over dir and makes it the working directory,
// which may become the root.
func newRoot(dir string) error {
	if err := mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	return os.Chdir(dir)
}

// enterOwnRoot gives the spawner a root with the store objects and the scratch
// directories in it, and nothing else of the host: a mount that it kept would
// live on after the host had unmounted it.
func (c *spawnerConfig) enterOwnRoot() error {
	var trees [2]int
	for i, dir := range []string{c.Real, c.Builds} {
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("bind %s: %w", dir, namespaceErrno(unix.SYS_OPEN_TREE, errnoOf(err)))
		}
		defer unix.Close(fd)
		trees[i] = fd
	}
	if err := newRoot(c.Builds); err != nil {
		return err
	}
	const writable = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	for i, d := range []struct {
		name       string
		attributes uint64
	}{{realDir, writable | unix.MOUNT_ATTR_RDONLY}, {buildsDir, writable}} {
		if err := os.Mkdir(d.name[1:], 0o755); err != nil {
			return err
		}
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, d.name[1:], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", d.name, err)
		}
		// What is bound from it has the same.
		if err := setAttributes(d.name[1:], unix.AT_RECURSIVE, d.attributes); err != nil {
			return err
		}
	}
	if err := os.Mkdir("proc", 0o755); err != nil {
		return err
	}
	if err := mount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return pivot()
}

// Where a spawner has what Options call Real and Builds.
const (
	realDir   = "/real"
	buildsDir = "/builds"
)
