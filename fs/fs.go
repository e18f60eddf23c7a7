// Package fs is the mount: a read-only FUSE file system over go-fuse's raw API
// that serves valid store objects from the directory where they really live,
// and makes a caller who touches a known but unrealised one wait until a
// Realiser has made it. It knows nothing of builders, goals or the database:
// it sees them through the small interfaces below.
//
// Where it waits follows from what the kernel locks. During a LOOKUP the
// kernel holds the lock of the parent directory, so a LOOKUP of the root
// answers at once with a placeholder, and the wait is in the next request
// (GETATTR, READLINK, a LOOKUP below), during which no lock is held.
//
// The server never touches its own mount, not even to look whether it is
// there: a request of the server to itself can block the thread that would
// have to answer it.
package fs

import (
	"context"
	"log/slog"

	"storefs/store"
)

// Entry is what the store says of one name directly below the store directory.
type Entry struct {
	// Name is DIGEST-NAME.
	Name string
	// Valid says that the object is complete and registered.
	Valid bool
	// Kind is what the object is, or, when it is not valid yet, what it is
	// promised to become: a promise of KindDirectory must be kept, any other
	// kind means nothing before the object is valid.
	Kind store.Kind
}

// Store answers what there is. Its methods are called while the kernel holds
// the lock of the mount's root: they must never wait for a build or a network.
type Store interface {
	// Lookup describes a well-formed name. store.ErrUnknown: it is neither
	// valid nor known how to make.
	Lookup(name string) (Entry, error)
	// List returns up to n valid names that are greater than after, in byte
	// order; fewer than n only at the end. after need not be a valid name.
	List(after string, n int) ([]Entry, error)
}

// Realiser makes names valid.
type Realiser interface {
	// Realise returns nil when name is valid: Store.Lookup says so from then
	// on. Every blocked caller has a call of its own; ctx ends when that
	// caller is killed or the mount ends.
	Realise(ctx context.Context, name string) error
}

// Control is the content of the hidden control directory .storefs. Errors are
// answered by Errno; store.ErrUnknown means that there is no such file.
type Control interface {
	Why(name string) ([]byte, error)
	Log(name string) ([]byte, error)
	Status() ([]byte, error)
}

// Callers is a set of processes.
type Callers struct {
	// Commands are command names as in /proc/PID/comm, of the thread that
	// calls or of its process. The kernel cuts them to 15 bytes, and so are
	// these.
	Commands []string
	// UIDs are effective user ids.
	UIDs []uint32
	// Cgroups are cgroup paths as in /proc/PID/cgroup ("/system.slice/x");
	// a process is in one also when it is in a cgroup below it.
	Cgroups []string
}

// Options says what to mount where.
type Options struct {
	// Mountpoint is an existing empty directory.
	Mountpoint string
	// Real is the directory that holds the objects, by name.
	Real string
	// State is the state directory, which must not overlap with the mount
	// point. If empty, it is the parent of Real.
	State string

	Store    Store
	Realiser Realiser
	// Control may be nil: then there is no control directory.
	Control Control

	// WaitInLookup waits in LOOKUP itself, for use below overlayfs or an NFS
	// export, where a placeholder's ESTALE would reach the caller. One caller
	// that creates a file in the root then delays all others until the wait
	// is over, and a second caller of a name cannot be killed before the
	// first one's wait ends.
	WaitInLookup bool
	// AllowOther lets other users in. For an ordinary user this needs
	// user_allow_other in /etc/fuse.conf.
	AllowOther bool
	// Deny are the callers that may use what is valid but start nothing.
	Deny Callers

	// Survive keeps what a later server needs to go on with the mount when
	// this process has died: Server.Held has it. It needs Linux 6.9.
	Survive bool
	// Held, if not nil, is a mount whose server has died or parted. It is
	// taken over; nothing is mounted. Its files are the new server's then.
	Held *Held

	// Logger may be nil.
	Logger *slog.Logger
}
