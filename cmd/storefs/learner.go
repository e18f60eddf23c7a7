package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"storefs/fs"
	"storefs/normaliser"
	"storefs/prefetch"
	"storefs/store"
)

// observer tells the learner which program a thread belongs to.
type observer struct {
	dir     store.Dir
	learner *prefetch.Learner
}

var _ fs.Observer = observer{}

func (o observer) Touched(tid int, name string) {
	p, err := o.dir.Join(name)
	if err != nil || tid == 0 {
		return
	}
	// Who cannot be looked at is not learned from.
	if program, err := programOf(tid); err == nil {
		o.learner.Touched(program, p)
	}
}

// programOf reads of /proc which program a thread runs. It reads links without
// following them: they may lead into the mount.
func programOf(tid int) (prefetch.Program, error) {
	var p prefetch.Program
	dir := "/proc/" + strconv.Itoa(tid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, err
	}
	if p.PID, err = statusNumber(status, "Tgid"); err != nil {
		return p, err
	}
	if p.Parent, err = statusNumber(status, "PPid"); err != nil {
		return p, err
	}
	if p.Start, err = startOf(p.PID); err != nil {
		return p, err
	}
	p.Executable, err = os.Readlink(dir + "/exe")
	return p, err
}

func statusNumber(status []byte, field string) (int, error) {
	_, rest, _ := bytes.Cut(status, []byte("\n"+field+":\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strconv.Atoi(string(line))
}

// startOf is when a process began, in ticks since the machine did: field 22 of
// /proc/PID/stat, the 20th after the command, which may hold anything.
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("process %d: short stat", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

func alive(pid int, start uint64) bool {
	s, err := startOf(pid)
	return err == nil && s == start
}

// ahead realises what somebody may want soon.
type ahead struct {
	normaliser *normaliser.Normaliser
	command    *mountCmd
}

func (a ahead) Realise(ctx context.Context, paths []store.Path) error {
	_, err := a.normaliser.Realise(ctx, normaliser.Request{
		Targets:    paths,
		KeepGoing:  true,
		Background: true,
		Limits:     a.command.limits(),
		Orphans:    normaliser.Orphans{Cancel: true},
	})
	return err
}

// observer is nil unless something is to be prefetched.
func (c *mountCmd) observer(own *owner, say func(string)) fs.Observer {
	if c.PrefetchJobs == 0 {
		return nil
	}
	told := time.Time{}
	own.learner = prefetch.New(prefetch.Options{
		Dir:      own.state.Store(),
		Store:    trails{own.state},
		Realiser: ahead{own.normaliser, c},
		Alive:    alive,
		Failed: func(err error) {
			if time.Since(told) > time.Minute {
				told = time.Now()
				say("storefs: prefetch: " + err.Error())
			}
		},
	})
	return observer{own.state.Store(), own.learner}
}
