package fs

import (
	"path"
	"slices"
	"strings"
)

// Permission is what a caller may start by touching what is not realised. What
// is valid, all may use.
type Permission uint8

// The permissions.
const (
	// MayBuild: whatever is necessary.
	MayBuild Permission = iota
	// MayFetch: what needs no build. The rest is EACCES.
	MayFetch
	// MayNothing: everything is EACCES.
	MayNothing
)

// Rule gives callers a permission.
type Rule struct {
	Callers
	Permission Permission
	// Name is what people know it by.
	Name string
}

// Denial is a caller whom a rule kept from what it touched.
type Denial struct {
	Call
	Rule string // its name
}

// Callers is a set of processes: all that are in one of its lists.
type Callers struct {
	// Everyone holds all processes.
	Everyone bool
	// Commands are command names as in /proc/PID/comm, of the thread that
	// calls or of its process. The kernel cuts them to 15 bytes, and so are
	// these. A process may call itself what it likes.
	Commands []string
	// UIDs are effective user ids.
	UIDs []uint32
	// Cgroups are cgroup paths as in /proc/PID/cgroup ("/system.slice/x");
	// a process is in one also when it is in a cgroup below it.
	Cgroups []string
}

// rules decide by the first one that holds a caller.
type rules []Rule

// of is the one that decides, nil if none does: then c may build.
func (rs rules) of(c caller) *Rule {
	for i := range rs {
		if rs[i].holds(c) {
			return &rs[i]
		}
	}
	return nil
}

func (rs rules) permission(c caller) Permission {
	if r := rs.of(c); r != nil {
		return r.Permission
	}
	return MayBuild
}

// holds reports whether c is one of s.
func (s *Callers) holds(c caller) bool {
	if s.Everyone || slices.Contains(s.UIDs, c.uid) {
		return true
	}
	if len(s.Commands) > 0 && s.command(c) {
		return true
	}
	return len(s.Cgroups) > 0 && s.cgroup(c)
}

func (s *Callers) command(c caller) bool {
	comms := [][]byte{c.comm(), c.process().comm()}
	for _, want := range s.Commands {
		for _, have := range comms {
			if len(have) > 0 && string(have) == want[:min(len(want), maxComm)] {
				return true
			}
		}
	}
	return false
}

func (s *Callers) cgroup(c caller) bool {
	b, err := c.proc("cgroup")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// HIERARCHY:CONTROLLERS:PATH
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, want := range s.Cgroups {
			if want = path.Clean("/" + want); below(parts[2], want) {
				return true
			}
		}
	}
	return false
}

// below reports whether the clean path p is dir or inside of it.
func below(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
