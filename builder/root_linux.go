package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hidden is where Real is mounted while the inputs are bound from it.
const hidden = ".real"

// enterRoot makes the file tree that the builder sees and makes it this
// process's root. Until it is, names in it are relative to the working
// directory, and nothing follows a link that an input brought: those are made
// last.
func (s *spec) enterRoot() error {
	// Nothing that is mounted here may be seen outside, or the reverse.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.Chdir(s.Scratch); err != nil {
		return err
	}
	if err := mount("tmpfs", "root", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	if err := os.Chdir("root"); err != nil {
		return err
	}
	for _, step := range []func() error{s.makeSystem, s.copyOwn, s.makeWritable, s.bindHostPaths, s.bindInputs} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := pivot(); err != nil {
		return err
	}
	return os.Chdir(buildDir)
}

// pivot makes the working directory the root, read-only, and leaves nothing of
// the old one.
func pivot() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	// The old root lies over the new one now, with all its mounts.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return setAttributes("/", 0, unix.MOUNT_ATTR_RDONLY)
}

// makeSystem makes /dev, /proc and /etc.
func (s *spec) makeSystem() error {
	if err := s.makeFixed(); err != nil {
		return err
	}
	for _, m := range ownMounts("") {
		if err := mount(m.fstype, m.target[1:], m.fstype, m.flags, m.data); err != nil {
			return err
		}
	}
	s.Allowance.set(".")
	if !ownSettings() {
		return nil
	}
	for _, place := range machineSettings() {
		for _, flags := range readOnlyBind() {
			if err := unix.Mount(place, place[1:], "", flags, ""); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("protect %s: %w", place, err)
			}
		}
	}
	return nil
}

// machineSettings are what is the machine's in /proc, and the superuser's to write without
// any right. Where that is who builders are, they get it read-only. (Who makes a container
// of his own in such a sandbox cannot mount another /proc there.)
func machineSettings() []string {
	return []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi"}
}

// readOnlyBind are the flags of two calls of mount(2) that make something read-only.
func readOnlyBind() [2]uintptr {
	return [2]uintptr{unix.MS_BIND, unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}
}

// fsMount is a file system that every sandbox has an instance of its own of.
type fsMount struct {
	fstype, target string
	flags          uintptr
	data           string
	stays          bool // for the next build, if this one has not touched it
}

// ownMounts are those. owner is an option of tmpfs.
func ownMounts(owner string) []fsMount {
	return []fsMount{
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620", true},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777" + owner, true},
		// Of its processes.
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", false},
	}
}

// makeFixed makes what is the same in every sandbox.
func (s *spec) makeFixed() error {
	for _, d := range []string{"dev", "dev/pts", "dev/shm", "etc", "proc"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range s.Devices {
		// Read-only does not concern what is written to a device, but its mode
		// and owner, which in a container may be the builder's to change. Not to
		// be executed would concern /dev/zero: old programs map it for code that
		// they make as they run.
		if err := bindFile("/dev/"+d, "dev/"+d, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "/dev/pts/ptmx",
	} {
		if err := os.Symlink(target, "dev/"+name); err != nil {
			return err
		}
	}
	for name, text := range s.etc() {
		if err := os.WriteFile("etc/"+name, []byte(text), 0o444); err != nil {
			return err
		}
	}
	return nil
}

// etc are the files that Nix writes, byte for byte: builders read them.
func (s *spec) etc() map[string]string {
	files := map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0:Nix build user:%[3]s:/noshell\n"+
			"nixbld:x:%[1]d:%[2]d:Nix build user:%[3]s:/noshell\n"+
			"nobody:x:65534:65534:Nobody:/:/noshell\n", sandboxUID, sandboxGID, buildDir),
		"group": fmt.Sprintf("root:x:0:\nnixbld:!:%d:\nnogroup:x:65534:\n", sandboxGID),
	}
	if s.Network {
		// Name services may be used to find hosts, and for nothing else that
		// this machine is configured for.
		files["nsswitch.conf"] = "hosts: files dns\nservices: files\n"
	} else {
		files["hosts"] = "127.0.0.1 localhost\n::1 localhost\n"
	}
	return files
}

// makeWritable binds the directories of the scratch, on the disk of the store:
// outputs are renamed out of the store directory afterwards.
func (s *spec) makeWritable() error {
	for _, d := range []struct{ outside, inside string }{
		{"../build", buildDir},
		{"../tmp", "/tmp"},
		{"../store", s.Store}, // last: it may be below another
	} {
		inside := d.inside[1:]
		if err := os.MkdirAll(inside, 0o755); err != nil {
			return err
		}
		if err := mount(d.outside, inside, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := setAttributes(inside, 0, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
			return err
		}
	}
	return nil
}

func (s *spec) bindHostPaths() error {
	for _, b := range s.Binds {
		info, err := os.Stat(b.Outside)
		if b.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("sandbox path %s: %w", b.Inside, err)
		}
		inside := b.Inside[1:]
		if err := os.MkdirAll(filepath.Dir(inside), 0o755); err != nil {
			return fmt.Errorf("sandbox path %s: %w", b.Inside, err)
		}
		attributes := uint64(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID)
		if info.Mode()&fs.ModeDevice == 0 {
			attributes |= unix.MOUNT_ATTR_NODEV
		}
		if info.IsDir() {
			err = bindDir(b.Outside, inside, attributes)
		} else {
			err = bindFile(b.Outside, inside, attributes)
		}
		if err != nil {
			return fmt.Errorf("sandbox path %s: %w", b.Inside, err)
		}
	}
	return nil
}

// bindInputs shows the closure of the inputs, read-only. A bind mount takes its
// flags from the mount that it is made from: so Real is bound once, aside, made
// read-only, and each input costs one mount and no more.
func (s *spec) bindInputs() error {
	if err := bindDir(s.Real, hidden, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
		return err
	}
	for _, in := range s.Inputs {
		letter, base := in[0], in[1:]
		real, inside := hidden+"/"+base, path.Join(s.Store, base)[1:]
		var err error
		switch letter {
		case letterSymlink:
			var target string
			if target, err = os.Readlink(real); err == nil {
				err = os.Symlink(target, inside)
			}
			if errors.Is(err, fs.ErrExist) { // a host path that is the same object
				err = nil
			}
		case letterDirectory:
			if err = makeStubDir(inside); err == nil {
				err = mount(real, inside, "", unix.MS_BIND, "")
			}
		default:
			if err = makeStubFile(inside); err == nil {
				err = mount(real, inside, "", unix.MS_BIND, "")
			}
		}
		if err != nil {
			return inputError(base, err)
		}
	}
	if err := unix.Unmount(hidden, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", hidden, err)
	}
	return os.Remove(hidden)
}

func bindDir(outside, inside string, attributes uint64) error {
	if err := makeStubDir(inside); err != nil {
		return err
	}
	if err := mount(outside, inside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return setAttributes(inside, unix.AT_RECURSIVE, attributes)
}

func bindFile(outside, inside string, attributes uint64) error {
	if err := makeStubFile(inside); err != nil {
		return err
	}
	if err := mount(outside, inside, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return setAttributes(inside, 0, attributes)
}

// makeStubDir makes a mount point. One that exists is as good: two host paths,
// or a host path and an input, may have it in common.
func makeStubDir(name string) error {
	if err := unix.Mkdir(name, 0o755); err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return nil
}

func makeStubFile(name string) error {
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o444)
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	return unix.Close(fd)
}

// setAttributes adds mount attributes to the mount at target; it clears none,
// because those that the host set cannot be cleared in a user namespace.
func setAttributes(target string, flags uint, attributes uint64) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, target, flags, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return fmt.Errorf("set mount attributes of /%s: %w", strings.TrimPrefix(target, "/"), err)
	}
	return nil
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		if source == "" {
			return fmt.Errorf("mount %s: %w", target, err)
		}
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// probe tries what a machine may forbid.
func probe() error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "/", "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := setAttributes("/proc", 0, unix.MOUNT_ATTR_RDONLY); err != nil {
		return err
	}
	if err := closeAtExec(); err != nil {
		return err
	}
	if err := new(spec).setUpHost(); err != nil {
		return err
	}
	// Docker's filter forbids it also to those whom it lets mount.
	if err := unix.PivotRoot("", ""); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("pivot root: %w", err)
	}
	return errProbed
}

// errProbed is what a probe answers if nothing is forbidden.
var errProbed = errors.New("the sandbox works")
