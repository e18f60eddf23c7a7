// Package prefetch learns what programs touch in the store, and has it made
// before they come to it: when a program begins again as it did before, what it
// touched then and what is no longer realised is asked for in the background.
// It decides nothing about slots, builds nothing, and knows neither the mount
// nor the database: it is told of touches, and sees a Store and a Realiser.
package prefetch

import (
	"context"
	"time"

	"storefs/store"
)

// Store answers what there is, and keeps what was learned. Its methods must not
// wait for a build or a network.
type Store interface {
	// Makeable reports whether something is known that makes p and that did not
	// fail lately, and whether p is valid now.
	Makeable(p store.Path) (makeable, valid bool, err error)
	// Trails are all that is kept of the program.
	Trails(program string) ([]Trail, error)
	// SetTrail keeps t, in the place of the one of the same program that
	// begins with the same name.
	SetTrail(t Trail) error
}

// Realiser makes paths valid in the background: as many as can be, beginning
// with the first. It returns soon when ctx has ended.
type Realiser interface {
	Realise(ctx context.Context, paths []store.Path) error
}

// Program is a running program, as it touched something.
type Program struct {
	PID   int    // of the process, not of the thread
	Start uint64 // when the process began: tells it from a later one with its PID
	// Parent is the process that began it, 0 if that is not known.
	Parent int
	// Executable is the file that it runs.
	Executable string
}

// Bounds of what is learned.
const (
	// Window is how long after its first touch a program is watched.
	Window = time.Minute
	// MaxPaths is how many paths are kept of a program that began in one way.
	// One that touches more is no user of the store but a visitor of all of it
	// (find, a backup): nothing is learned of it.
	MaxPaths = 256
	// maxNames bounds the bytes that name a trail.
	maxNames = 8 << 10
	// maxWatched is how many processes are watched at a time.
	maxWatched = 4096
	// halfLife is how long it takes to forget half of what was learned.
	halfLife = 30 * 24 * time.Hour
	// maxWeight bounds how often a touch counts; below minWeight it is forgotten.
	maxWeight = 8
	minWeight = 0.25
)
