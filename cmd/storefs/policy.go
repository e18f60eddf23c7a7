package main

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"storefs/fs"
)

// policyFlags say who may start what by touching it.
type policyFlags struct {
	Policy           []policy `placeholder:"KIND:NAME=POLICY" sep:"none" help:"What callers may start: build, cached-only (what a substitute gives) or deny (nothing). KIND:NAME is command:NAME (as in /proc/PID/comm), uid:USER, cgroup:PATH or all. May be repeated: the first that fits decides."`
	StandardPolicies bool     `negatable:"" default:"true" help:"After those, deny builds to known indexers, scanners and backup programs (updatedb, tracker, baloo, restic, …). [yes]"`
	DenyCommand      []string `placeholder:"NAME" help:"The same as --policy=command:NAME=deny, before all of them. May be repeated."`
	DenyUID          []uid    `name:"deny-uid" placeholder:"USER" help:"The same as --policy=uid:USER=deny, before all of them. May be repeated."`
	DenyCgroup       []string `placeholder:"PATH" help:"The same as --policy=cgroup:PATH=deny, before all of them. May be repeated."`
	JobsPerUID       int      `name:"jobs-per-uid" placeholder:"N" help:"Run up to N builders at once for one user, root too; one whose derivation says __cores counts as so many, and one that counts as more than N runs alone. [no limit; users share them all the same]"`
}

func (f policyFlags) check() error {
	if f.JobsPerUID < 0 {
		return fmt.Errorf("--jobs-per-uid=%d: must not be negative", f.JobsPerUID)
	}
	return nil
}

// rules are all policies in the order in which they are tried.
func (f policyFlags) rules() []fs.Rule {
	var all []fs.Rule
	deny := func(who string, c fs.Callers) {
		all = append(all, fs.Rule{Callers: c, Permission: fs.MayNothing, Name: who + "=deny"})
	}
	for _, name := range f.DenyCommand {
		deny("command:"+name, fs.Callers{Commands: []string{name}})
	}
	for _, id := range f.DenyUID {
		deny(fmt.Sprint("uid:", id), fs.Callers{UIDs: []uint32{uint32(id)}})
	}
	for _, path := range f.DenyCgroup {
		deny("cgroup:"+path, fs.Callers{Cgroups: []string{path}})
	}
	for _, p := range f.Policy {
		all = append(all, fs.Rule(p))
	}
	if f.StandardPolicies {
		all = append(all, fs.Rule{Callers: fs.Callers{Commands: crawlers()}, Permission: fs.MayNothing, Name: "the standard policies"})
	}
	return all
}

// crawlers are programs that look at everything they can reach, mostly without
// anybody waiting for it. Listing the store leads them to nothing that is not
// built; a link to a store path, or a list of last time, would.
func crawlers() []string {
	return []string{
		// Indexers of names and contents.
		"updatedb", "updatedb.mlocate", "updatedb.plocate", "plocate-build",
		"tracker-miner-fs", "tracker-miner-fs-3", "tracker-extract", "tracker-extract-3", "localsearch-3", "localsearch-extractor-3",
		"baloo_file", "baloo_file_extractor", "recollindex", "mandb", "fsearch",
		// Virus scanners.
		"clamd", "clamscan", "clamonacc", "freshclam",
		// Backup.
		"restic", "borg", "borgmatic", "duplicity", "kopia", "tarsnap", "rsnapshot", "timeshift", "bacula-fd", "bareos-fd", "burp", "dsmc", "dsmcad",
	}
}

// policy is one KIND:NAME=POLICY.
type policy fs.Rule

// UnmarshalText reads a policy.
func (p *policy) UnmarshalText(text []byte) error {
	s := string(text)
	i := strings.LastIndexByte(s, '=')
	if i < 0 {
		return fmt.Errorf("%q is not of the form KIND:NAME=POLICY", s)
	}
	who, what := s[:i], s[i+1:]
	p.Name = s
	switch what {
	case "build":
		p.Permission = fs.MayBuild
	case "cached-only":
		p.Permission = fs.MayFetch
	case "deny":
		p.Permission = fs.MayNothing
	default:
		return fmt.Errorf("%q: the policy %q is none of build, cached-only and deny", s, what)
	}
	kind, name, named := strings.Cut(who, ":")
	switch {
	case who == "all":
		p.Everyone = true
	case !named || name == "":
		return fmt.Errorf("%q: whom it is for is none of command:NAME, uid:USER, cgroup:PATH and all", s)
	case kind == "command":
		p.Commands = []string{name}
	case kind == "uid":
		var id uid
		if err := id.UnmarshalText([]byte(name)); err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		p.UIDs = []uint32{uint32(id)}
	case kind == "cgroup":
		p.Cgroups = []string{name}
	default:
		return fmt.Errorf("%q: %q is none of command, uid and cgroup", s, kind)
	}
	return nil
}

// uid is a user by number or by name.
type uid uint32

// UnmarshalText reads one of both.
func (id *uid) UnmarshalText(text []byte) error {
	name := string(text)
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		*id = uid(n)
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	*id = uid(n)
	return err
}
