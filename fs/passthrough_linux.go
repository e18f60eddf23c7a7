package fs

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// stackDepth is how deep file systems may lie on each other below a mount whose
// files are read by passthrough from the file system of fd. The kernel adds it
// to the depth of whatever is put on top of the mount, and allows 2 in all: with
// objects on an overlayfs, no overlayfs can be put on the mount.
func stackDepth(fd int) int {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return 2
	}
	return 1
}

// passthrough makes the files of t be read from their backing by the kernel
// itself, or says why it cannot. Backing ids are kept in the journal: they are
// the connection's, and outlive the server.
func (t *handles) passthrough(c *connection, real string) error {
	if c.device.flags()&fuse.CAP_PASSTHROUGH == 0 {
		return errors.New("passthrough needs Linux 6.9 or later, with CONFIG_FUSE_PASSTHROUGH")
	}
	t.register, t.unregister, t.keep = c.device.openBacking, c.device.closeBacking, c.nodes.keepBacking
	if c.taken {
		for node, id := range c.nodes.backings() {
			t.restore(node, id)
		}
		return nil
	}

	// Whether it is allowed, and whether the file system can do it, is told
	// only for an open file of it.
	f, err := os.CreateTemp(real, ".passthrough-")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	id, err := c.device.openBacking(int(f.Fd()))
	switch {
	case err == nil:
		c.device.closeBacking(id)
		return nil
	case err == syscall.EPERM:
		return errors.New("passthrough needs CAP_SYS_ADMIN outside of user namespaces")
	}
	return fmt.Errorf("passthrough does not work with the file system of %s: %w", real, err)
}
