package builder

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// As root, builders run as this user and group of the host, which own nothing
// else: in a range that distributions and systemd (UIDS-GIDS.md) leave unused, and user
// namespaces of 65,536 have. They are none of Nix's build users, 30001 and up: a Nix ends
// all that runs as one of those before and after each of its builds.
const (
	buildUser  = 61000
	buildGroup = 61000
)

// identity is who builders are on the host, and how their user namespaces map
// that.
type identity struct {
	uid, gid   int // of the builder, outside
	uids, gids []syscall.SysProcIDMap
	setgroups  bool
}

// newIdentity decides by who we are. An ordinary user can only be itself. Root
// gives builders a user of their own, where its own user namespace has it, and
// maps itself, so that the child can set the sandbox up as root; and then the
// owners of closed directories on the way to dirs: in a user namespace, root may
// enter directories of those users only that the namespace knows.
func newIdentity(dirs ...string) (identity, error) {
	uid, gid := os.Geteuid(), os.Getegid()
	id := identity{uid: uid, gid: gid}
	if uid != 0 || !mapped("/proc/self/uid_map", buildUser) || !mapped("/proc/self/gid_map", buildGroup) {
		id.uids = []syscall.SysProcIDMap{{ContainerID: sandboxUID, HostID: uid, Size: 1}}
		id.gids = []syscall.SysProcIDMap{{ContainerID: sandboxGID, HostID: gid, Size: 1}}
		return id, nil
	}
	id.uid, id.gid, id.setgroups = buildUser, buildGroup, true
	uids, gids := []int{buildUser, 0}, []int{buildGroup, 0}
	for _, d := range dirs {
		for ; d != "/"; d = filepath.Dir(d) {
			info, err := os.Stat(d)
			if err != nil {
				return id, err
			}
			st := info.Sys().(*syscall.Stat_t)
			if st.Mode&0o001 == 0 {
				uids, gids = append(uids, int(st.Uid)), append(gids, int(st.Gid))
			}
		}
	}
	id.uids, id.gids = mapping(sandboxUID, uids), mapping(sandboxGID, gids)
	return id, nil
}

// sandboxNobody is how builders see those users and groups whom they do not know,
// the owner of their inputs among them: by the number that the kernel has for that.
const sandboxNobody = 65534

// mapping maps the first of ids to inside, 0 to nobody, and the rest to where they
// disturb nobody.
func mapping(inside int, ids []int) []syscall.SysProcIDMap {
	var m []syscall.SysProcIDMap
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			continue
		}
		var in int
		switch {
		case i == 0:
			in = inside
		case id == 0:
			in = sandboxNobody
		default:
			in = 1<<16 + i
		}
		m = append(m, syscall.SysProcIDMap{ContainerID: in, HostID: id, Size: 1})
	}
	return m
}

// mapped reports whether our own user namespace, whose map is in file, has id.
func mapped(file string, id int) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var inside, outside, size int
		if _, err := fmt.Fscan(strings.NewReader(lines.Text()), &inside, &outside, &size); err != nil {
			return false
		}
		if id >= inside && id-inside < size {
			return true
		}
	}
	return false
}

// give makes the builder the owner of a file.
func (id identity) give(file string) error {
	if id.uid == os.Geteuid() {
		return nil
	}
	return os.Lchown(file, id.uid, id.gid)
}

// giveOpen is give for an open file, which may have no name.
func (id identity) giveOpen(f *os.File) error {
	if id.uid == os.Geteuid() {
		return nil
	}
	return f.Chown(id.uid, id.gid)
}
