package normaliser

import "math/bits"

// Caller is for whom a request is: a process that waits.
type Caller struct {
	PID     int    `json:"pid,omitempty"` // 0 if it cannot be seen from here
	UID     uint32 `json:"uid"`
	Command string `json:"command,omitempty"` // as in /proc/PID/comm
}

// maxUsers bounds the users that are told apart: each has a flag, by which it is
// known who wants a goal.
const maxUsers = 24

const (
	// nobody is the user of requests without a caller. It has a share like the
	// others, and no limit.
	nobody = 0
	// others is the user of all those for whom no flag is left.
	others = maxUsers - 1
)

// users are the users that want something.
type users struct {
	index map[uint32]int   // by user id
	ids   [maxUsers]uint32 // by index
	goals [maxUsers]int    // live goals that each wants
	known [maxUsers]bool   // ids holds something
}

// flag is the flag of the user for whom c asks.
func (u *users) flag(c *Caller) flags {
	if c == nil {
		return flagUser << nobody
	}
	if i, ok := u.index[c.UID]; ok {
		return flagUser << i
	}
	for i := nobody + 1; i < others; i++ {
		if u.goals[i] > 0 {
			continue
		}
		// Whoever had it before wants nothing any more.
		if u.known[i] {
			delete(u.index, u.ids[i])
		}
		if u.index == nil {
			u.index = map[uint32]int{}
		}
		u.index[c.UID], u.ids[i], u.known[i] = i, c.UID, true
		return flagUser << i
	}
	return flagUser << others
}

// count adds n to the goals of all users in f.
func (u *users) count(f flags, n int) {
	for f = f & flagUsers / flagUser; f != 0; f &= f - 1 {
		u.goals[bits.TrailingZeros64(uint64(f))] += n
	}
}
