package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Check reports what this machine, or whoever we are, lacks to build: it tries,
// and says in one line which switch forbids it. The program must call Child.
func Check() error {
	ids, err := newIdentity()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	c, err := spawnSelf(&spec{Probe: true}, ids, null)
	if err != nil {
		return err
	}
	answer := message{says: saysFailed, text: "the child died"}
	for r := range c.reports {
		if r.says != saysEnded {
			answer = r.message
		}
	}
	if answer.text == errProbed.Error() {
		return nil
	}
	return answer.err("")
}

// diagnose makes an error of what failed while a sandbox was made, and says which
// switch of the machine is likely to be the reason.
func diagnose(what string, errno unix.Errno) error {
	switch errno {
	case unix.EPERM, unix.EACCES:
		why := forbids(what, readSwitch, os.Geteuid() == 0)
		if why == "" {
			why = "user namespaces, mounts or other system calls are forbidden here, by a container's seccomp profile or a security module"
		}
		return fmt.Errorf("%s: %s", what, why)
	case unix.ENOSYS:
		why := tooOld(readSwitch("/proc/sys/kernel/osrelease"))
		if why == "" {
			why = "the kernel is older than Linux 5.12, or a container's seccomp profile hides it"
		}
		return fmt.Errorf("%s: %s", what, why)
	case unix.ENOENT:
		if err := CheckProc(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	case unix.ENOSPC, unix.EUSERS:
		// Not of the disk: so fails a clone that would make one too many.
		why := forbids(what, readSwitch, os.Geteuid() == 0)
		if why == "" {
			why = "a limit on namespaces is reached (sysctl user.max_*_namespaces)"
		}
		return fmt.Errorf("%s: %s", what, why)
	}
	if errno == 0 {
		return errors.New(what)
	}
	return &diagnosed{what, errno}
}

// tooOld says that the kernel of this release is older than the first one that has all
// that a sandbox is made of, "" if it is not, or if that cannot be told.
func tooOld(release string) string {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 || major > 5 || major == 5 && minor >= 12 {
		return ""
	}
	return "Linux 5.12 or later is needed, and this is " + release
}

// CheckProc reports whether there is a /proc by which this process can start itself again.
func CheckProc() error {
	if _, err := os.Stat("/proc/self/exe"); errors.Is(err, fs.ErrNotExist) {
		return errors.New("no /proc of this pid namespace is mounted here (mount -t proc proc /proc)")
	}
	return nil
}

// diagnosed is an error whose text says already what its number means.
type diagnosed struct {
	text  string
	errno unix.Errno
}

func (d *diagnosed) Error() string { return d.text }
func (d *diagnosed) Unwrap() error { return d.errno }

// forbids names the switch that forbids user namespaces, or what was tried in one.
// read returns the content of a file in /proc, "" if there is none.
func forbids(what string, read func(file string) string, root bool) string {
	switch {
	case read("/proc/sys/user/max_user_namespaces") == "0":
		return "user namespaces are off: sysctl user.max_user_namespaces is 0"
	case !root && read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "user namespaces are off for ordinary users: sysctl kernel.unprivileged_userns_clone is 0"
	case !root && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "user namespaces are restricted for ordinary users: sysctl kernel.apparmor_restrict_unprivileged_userns is 1"
	case strings.Contains(what, "mount proc on") && procMasked(read("/proc/self/mountinfo")):
		return "parts of /proc are masked, as containers do it, and so no sandbox can have a /proc of its own: run the container with an unmasked /proc"
	}
	return ""
}

func readSwitch(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// procMasked reports whether something is mounted below /proc other than what
// the kernel mounts there itself.
func procMasked(mountinfo string) bool {
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], "/proc/") && fields[4] != "/proc/sys/fs/binfmt_misc" {
			return true
		}
	}
	return false
}
