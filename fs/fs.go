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
	"path/filepath"

	"storefs/store"
)

// Entry is what the store says of one name directly below the store directory.
type Entry struct {
	// Name is DIGEST-NAME.
	Name string
	// Valid says that the object is complete and registered.
	Valid bool
	// Kind is what the object is, or, when it is not valid yet, what it is
	// promised to become. A promise must be kept: callers decide by it. Whether
	// a regular file is executable may turn out to be otherwise.
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
	// Realise returns nil when the name is valid: Store.Lookup says so from
	// then on. Every blocked caller has a call of its own; ctx ends when that
	// caller is killed or the mount ends.
	Realise(ctx context.Context, c Call) error
}

// Call is one caller's need of one name.
type Call struct {
	Name string
	// PID is the caller's process, 0 if it is in another pid namespace.
	PID uint32
	UID uint32
	// Command is the process's name as in /proc/PID/comm, "" if that cannot be
	// seen.
	Command string
	// NoBuild: the caller must get store.ErrNotAllowed if something would have
	// to be built.
	NoBuild bool
}

// Verifier compares what is read with what was registered.
type Verifier interface {
	// Verify returns nil if the file, link or directory at path inside of the object
	// called name ("" for the object itself) is what was registered, or was found to
	// be so since the machine was started; a directory, if the same names are in it,
	// of the same kinds. It may read the whole file, and goes on doing so when ctx
	// ends. store.ErrNotValid: name is not valid any more.
	Verify(ctx context.Context, name, path string) error
}

// Observer hears who touches what.
type Observer interface {
	// Touched: the thread looked name up, which is valid, or begins to wait for
	// it. It waits until Touched returns, and can be looked at in /proc until
	// then. Callers who may not have
	// everything built are not told of.
	Touched(tid int, name string)
}

// Control is the content of the hidden control directory .storefs. Errors are
// answered by Errno; store.ErrUnknown means that there is no such file.
type Control interface {
	Why(name string) ([]byte, error)
	Log(name string) ([]byte, error)
	Status() ([]byte, error)
	// Waiters says who waits for what.
	Waiters() ([]byte, error)
}

// Facts is what there is to know of a name, be it realised or not. Asking starts
// nothing, and waits for nothing.
type Facts interface {
	// Keys are the facts that there are of name, in the order in which they are
	// shown. store.ErrUnknown: it is neither valid nor known how to make.
	Keys(name string) ([]string, error)
	// Fact is one of them, in one line without a newline. store.ErrUnknown:
	// there is no such fact.
	Fact(name, key string) ([]byte, error)
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
	// Verifier is asked before the first byte of a file, the target of a link, or a
	// name in a directory reaches the kernel. nil: what is on disk is taken as it is.
	Verifier Verifier
	// Observer may be nil.
	Observer Observer
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
	// Export is an existing directory, "" for none, in which the store shows up
	// as well, under the name of the mount point: for containers, to bind with
	// rslave propagation. It needs root.
	Export string
	// Data is how the contents of files reach the kernel; "" is DataAuto.
	Data Data
	// Rules say who may start what: for each caller the first one that holds it.
	// Whoever is in none of them may build.
	Rules []Rule
	// Denied, if not nil, is told of callers whom a rule keeps from something, while
	// they wait: it must be quick.
	Denied func(Denial)
	// Facts, if not nil, are shown as extended attributes of store objects
	// (user.storefs.KEY), and in the control directory's info/NAME.
	Facts Facts
	// NoAttributes leaves the extended attributes out: then the kernel need not
	// ask for those that programs expect of every file.
	NoAttributes bool
	// Used, if not nil, is told, soon after, of store objects that callers who
	// may build looked up: of each about once an hour for as long as the kernel
	// remembers it. It is called from one goroutine, and not any more when the
	// mount has ended.
	Used func(name string)

	// Survive keeps what a later server needs to go on with the mount when
	// this process has died: Server.Held has it. It needs Linux 6.9.
	Survive bool
	// Held, if not nil, is a mount whose server has died or parted. It is
	// taken over; nothing is mounted. Its files are the new server's then.
	Held *Held

	// Logger may be nil.
	Logger *slog.Logger
}

// state is the state directory.
func (o Options) state() string {
	if o.State != "" {
		return o.State
	}
	return filepath.Dir(filepath.Clean(o.Real))
}
