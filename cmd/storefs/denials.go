package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"storefs/daemon"
	"storefs/fs"
	"storefs/store"
)

const (
	// maxDenials is how many callers are remembered.
	maxDenials = 100
	// denialPause is how long no more is said of the same command: an indexer would fill
	// the log.
	denialPause = time.Minute
)

// denials are the last callers of the mount whom a policy kept from something: they got
// EACCES, which does not say why.
type denials struct {
	dir store.Dir
	say func(line string)

	mu   sync.Mutex
	last []denial             // the last one last
	said map[string]time.Time // when something was said of a command
}

type denial struct {
	path store.Path
	daemon.Denial
}

func newDenials(dir store.Dir, say func(line string)) *denials {
	return &denials{dir: dir, say: say, said: make(map[string]time.Time)}
}

// add remembers a denial, once for each caller and path, and says it now and then.
func (d *denials) add(f fs.Denial) {
	p, err := d.dir.Join(f.Name)
	if err != nil {
		return
	}
	n := denial{p, daemon.Denial{Command: f.Command, PID: int(f.PID), UID: f.UID, Policy: f.Rule, Time: time.Now()}}
	if d.note(n) {
		d.say(fmt.Sprintf("storefs: %s: %v", p, n.Denial))
	}
}

// note reports whether it is to be said.
func (d *denials) note(n denial) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = slices.DeleteFunc(d.last, func(o denial) bool {
		same := o
		same.Time = n.Time
		return same == n
	})
	if len(d.last) == maxDenials {
		d.last = slices.Delete(d.last, 0, 1)
	}
	d.last = append(d.last, n)
	for command, at := range d.said {
		if n.Time.Sub(at) >= denialPause {
			delete(d.said, command)
		}
	}
	// A process can call itself what it likes, each time.
	if _, ok := d.said[n.Command]; ok || len(d.said) == maxDenials {
		return false
	}
	d.said[n.Command] = n.Time
	return true
}

// of are those who were kept from p.
func (d *denials) of(p store.Path) []daemon.Denial {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []daemon.Denial
	for _, n := range d.last {
		if n.path == p {
			all = append(all, n.Denial)
		}
	}
	return all
}
