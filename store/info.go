package store

import "time"

// Kind is what a store object, or an output that is to become one, is.
type Kind string

// The kinds. An executable is a regular file with the executable bit.
const (
	KindUnknown    Kind = ""
	KindDirectory  Kind = "directory"
	KindRegular    Kind = "regular"
	KindExecutable Kind = "executable"
	KindSymlink    Kind = "symlink"
)

// Info is what the database keeps of a valid path.
type Info struct {
	Path       Path   `json:"path"`
	Kind       Kind   `json:"kind"`
	NarHash    Hash   `json:"narHash"`              // SHA-256 of the NAR
	NarSize    int64  `json:"narSize"`              // bytes of the NAR
	References []Path `json:"references"`           // sorted, without duplicates; may hold Path itself
	Deriver    Path   `json:"deriver,omitempty"`    // the derivation that made it, if known
	CA         string `json:"ca,omitempty"`         // "text:sha256:…", "fixed:r:sha256:…": how its name follows from its content
	Registered int64  `json:"registered,omitempty"` // seconds since 1970
}

// RegisteredAt is the time of the registration.
func (i Info) RegisteredAt() time.Time { return time.Unix(i.Registered, 0) }
