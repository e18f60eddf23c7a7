package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// fsName is the source and the subtype of the mount: "storefs" of type
// "fuse.storefs".
const fsName = "storefs"

// statTime bounds how long a mount that is already there may take to answer.
const statTime = 2 * time.Second

// maxStale is how many dead mounts on top of each other are cleared away.
const maxStale = 16

// prepareMountpoint returns the mount point without symbolic links, empty, and
// without the remains of a mount whose process died.
func prepareMountpoint(opts Options, log *slog.Logger) (string, error) {
	dir, err := resolveMountpoint(opts.Mountpoint)
	if err != nil {
		return "", err
	}
	if _, err := clearDead(dir, log); err != nil {
		return "", err
	}
	switch st, err := os.Lstat(dir); {
	case err != nil:
		return "", cause(err)
	case !st.IsDir():
		return "", errors.New("not a directory")
	}
	if err := checkOverlap(dir, opts.state()); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", cause(err)
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("the directory is not empty (it has %q)", entries[0].Name())
	}
	// Before anything is mounted, which would have to end again.
	if opts.Export != "" {
		if _, err := exportable(opts.Export, dir, opts.state()); err != nil {
			return "", fmt.Errorf("export to %s: %w", opts.Export, err)
		}
	}
	return dir, nil
}

// Clear detaches what dead processes have left mounted at dir, and reports whether
// there was anything. That somebody alive has a FUSE mount there is an error.
func Clear(dir string) (cleared bool, err error) {
	if dir, err = resolveMountpoint(dir); err != nil {
		return false, err
	}
	return clearDead(dir, slog.New(slog.DiscardHandler))
}

// Remains reports whether a dead process has left a mount at dir.
func Remains(dir string) bool {
	dir, err := resolveMountpoint(dir)
	if err != nil {
		return false
	}
	m, found := mountAt(dir)
	return found && strings.HasPrefix(m.fsType, "fuse") && m.ours() && dead(dir)
}

func clearDead(dir string, log *slog.Logger) (cleared bool, err error) {
	for range maxStale {
		m, found := mountAt(dir)
		if !found || !strings.HasPrefix(m.fsType, "fuse") {
			break
		}
		if !dead(dir) {
			return cleared, fmt.Errorf("already a mount point of %q (%s)", m.source, m.fsType)
		}
		if !m.ours() {
			return cleared, fmt.Errorf("a dead mount of %q (%s) is there: unmount it first", m.source, m.fsType)
		}
		if err := unmountAt(dir, mayMount(), true); err != nil {
			return cleared, fmt.Errorf("detach the mount of a dead process: %w", err)
		}
		cleared = true
		log.Info("detached the mount of a dead process", "mountpoint", dir)
	}
	return cleared, nil
}

// cause is err without the operation and the path, which the caller names.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// maxLinks is how many links to links are followed, as the kernel does.
const maxLinks = 40

// resolveMountpoint resolves symbolic links as /proc/self/mountinfo does. It
// must work also when what they lead to is a dead mount, that answers nothing.
func resolveMountpoint(p string) (string, error) {
	p, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		dir, name := filepath.Split(p)
		parent, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return "", cause(err)
		}
		p = filepath.Join(parent, name)
		target, err := os.Readlink(p)
		if err != nil {
			return p, nil // no link
		}
		if !filepath.IsAbs(target) {
			target = parent + "/" + target
		}
		p = strings.TrimRight(target, "/") // not cleaned: what is before ".." may be a link
	}
	return "", unix.ELOOP
}

// checkOverlap refuses a mount that would hide the state, or be part of it.
func checkOverlap(dir, state string) error {
	state, err := filepath.Abs(state)
	if err == nil {
		state, err = filepath.EvalSymlinks(state)
	}
	if err != nil {
		return err
	}
	switch {
	case below(dir, state):
		return fmt.Errorf("the mount point is in the state directory %s", state)
	case below(state, dir):
		return fmt.Errorf("the state directory %s would be under the mount", state)
	}
	return nil
}

// mounted is one line of /proc/self/mountinfo.
type mounted struct {
	dir    string
	id     int
	major  int
	minor  int
	fsType string
	source string
}

// ours reports whether it is a store's mount, of whatever process.
func (m mounted) ours() bool { return m.fsType == "fuse."+fsName && m.source == fsName }

// mountAt is the mount that lies on top at dir.
func mountAt(dir string) (m mounted, found bool) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != dir, false })
	if err != nil || len(infos) == 0 {
		return mounted{}, false
	}
	// Later mounts are listed later.
	i := infos[len(infos)-1]
	return mounted{dir, i.ID, i.Major, i.Minor, i.FSType, i.Source}, true
}

// listed reports whether m still exists, under whatever else.
func (m mounted) listed() (bool, error) {
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.ID != m.id || i.Mountpoint != m.dir, false
	})
	return len(infos) > 0, err
}

// setReadAhead makes the kernel read 1 MiB ahead, which halves the time of a
// cold sequential read. It needs root.
func (m mounted) setReadAhead(log *slog.Logger) {
	file := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", m.major, m.minor)
	if err := os.WriteFile(file, []byte("1024"), 0); err != nil {
		log.Debug("read-ahead stays as it is", "error", err)
	}
}

// introduce makes the kernel ask for the attributes of the root, of which it
// knows no permissions if fusermount3 has mounted it. It takes no answer that a
// notification overtakes: were the first of them given to a caller, that one
// would get EACCES. Nobody else may hold the mount yet: a thread that waits for
// its own process could not be killed then.
func (m mounted) introduce() {
	var st unix.Stat_t
	_ = unix.Stat(m.dir, &st)
}

// dead reports whether the process of the FUSE mount at dir has ended. A mount
// that does not answer in time is alive: the goroutine that asks is left to
// wait for it, as a system call cannot be given up.
func dead(dir string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		return err == unix.ENOTCONN || err == unix.ECONNABORTED
	case <-time.After(statTime):
		return false
	}
}

// unmountAt unmounts dir; lazily also when it is in use.
func unmountAt(dir string, direct, lazily bool) error {
	if direct {
		flags := unix.UMOUNT_NOFOLLOW
		if lazily {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	bin, err := fusermount()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if lazily {
		args = append(args, "-z")
	}
	out, err := exec.Command(bin, append(args, "--", dir)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(string(out)), err)
	}
	return nil
}

func fusermount() (string, error) {
	bin, err := exec.LookPath("fusermount3")
	if err != nil {
		return "", errors.New("an ordinary user needs the program fusermount3: install the package fuse3")
	}
	return bin, nil
}

// mayMount reports whether this process may call mount(2): root, also that of
// a user namespace.
func mayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	return unix.Capget(&header, &caps[0]) == nil && caps[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// checkPrivilege says what is missing to mount, and whether to do it by the
// system call.
func checkPrivilege(allowOther bool) (direct bool, err error) {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("open /dev/fuse: %w (is the module loaded, and may this user open it?)", cause(err))
	}
	f.Close()
	if mayMount() {
		return true, nil
	}
	if os.Geteuid() == 0 {
		// Nor has fusermount3 the right, which root starts with no more than root has.
		return false, errors.New("root needs CAP_SYS_ADMIN to mount, and has it not, as in most containers: start the container with it (--cap-add=SYS_ADMIN)")
	}
	if _, err := fusermount(); err != nil {
		return false, err
	}
	if allowOther {
		conf, _ := os.ReadFile("/etc/fuse.conf")
		allowed := false
		for line := range strings.Lines(string(conf)) {
			allowed = allowed || strings.TrimSpace(line) == "user_allow_other"
		}
		if !allowed {
			return false, errors.New("an ordinary user may let other users in only if /etc/fuse.conf has the line user_allow_other")
		}
	}
	return false, nil
}

// mayNotMount says why fusermount3, which becomes root to mount, was not permitted to,
// "" if it said something else, or if that cannot be seen. It is asked after it was tried:
// there are programs of that name that have the mount made elsewhere.
func mayNotMount(text string) string {
	if !strings.Contains(text, "Operation not permitted") {
		return ""
	}
	if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && set == 1 {
		return ": it may not become root here, by no_new_privs, which NoNewPrivileges= of a unit and no-new-privileges of a container set"
	}
	if bound, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_ADMIN, 0, 0, 0); err == nil && bound == 0 {
		return ": nobody has CAP_SYS_ADMIN here, as in most containers: start the container with it (--cap-add=SYS_ADMIN)"
	}
	return ""
}

// waitLimit is how long a request may wait so that the kernel does not abort
// the whole mount because of it; 0 if there is no limit.
func waitLimit() (time.Duration, error) {
	var seconds [2]int
	for i, name := range []string{"default_request_timeout", "max_request_timeout"} {
		b, err := os.ReadFile("/proc/sys/fs/fuse/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // kernels before 6.14 have no such limit
		}
		if err != nil {
			return 0, err
		}
		if seconds[i], err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return 0, fmt.Errorf("fs.fuse.%s: %w", name, err)
		}
	}
	return limitOf(seconds[0], seconds[1]), nil
}

// limitOf follows init_server_timeout in fs/fuse/inode.c: the maximum bounds
// the default, and neither takes effect below 15 seconds, the interval at which
// the kernel looks. The margin is for the way of the request to here.
func limitOf(byDefault, maximum int) time.Duration {
	const least, margin = 15, 3
	limit := byDefault
	if maximum > 0 && (limit == 0 || limit > maximum) {
		limit = maximum
	}
	if limit == 0 {
		return 0
	}
	return time.Duration(max(limit, least)-margin) * time.Second
}
