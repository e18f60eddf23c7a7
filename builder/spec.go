package builder

import (
	"bytes"
	"encoding/json"

	"storefs/store"
)

// What a builder sees, as in Nix's sandbox.
const (
	sandboxUID = 1000
	sandboxGID = 100
	buildDir   = "/build"
)

// Flags of personality(2), from linux/personality.h.
const (
	addrNoRandomize = 0x0040000
	perLinux32      = 0x0008 // uname says that the machine is 32-bit
)

// spec is everything that the sandbox child needs to know. It crosses an exec,
// or a network, as JSON.
type spec struct {
	// Probe only sets up what needs privileges, and ends.
	Probe bool `json:",omitempty"`

	Scratch string // has the directories build, store, tmp, root
	Real    string
	Store   string
	Inputs  []string // each a letter of inputLetter and the base name in Real
	Binds   []bind
	Devices []string // base names in /dev
	Network bool     // the host's, in place of a loopback interface alone

	Allowance allowance

	// Own says that the builder is this program, which is not in the sandbox otherwise.
	Own      bool   `json:",omitempty"`
	OwnInput []byte `json:",omitempty"` // then, what it finds under inputName

	Personality uintptr // flags of personality(2)
	Builder     []byte
	Args        byteStrings
	Env         byteStrings
}

// byteStrings are arguments or variables. They are bytes, which JSON's strings are
// not: so each is ended by NUL, which they do not have, and all are one string of
// bytes.
type byteStrings []string

// MarshalJSON is for package json.
func (l byteStrings) MarshalJSON() ([]byte, error) {
	var b []byte
	for _, s := range l {
		b = append(append(b, s...), 0)
	}
	return json.Marshal(b)
}

// UnmarshalJSON is for package json.
func (l *byteStrings) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	*l = nil
	for s := range bytes.SplitAfterSeq(b, []byte{0}) {
		if s, ok := bytes.CutSuffix(s, []byte{0}); ok {
			*l = append(*l, string(s))
		}
	}
	return nil
}

// bind is a host path that the sandbox shows read-only.
type bind struct {
	Outside, Inside string
	Optional        bool // it is left out where Outside does not exist
}

// Letters that begin the elements of spec.Inputs. They spare the child a stat of
// each input.
const (
	letterDirectory = 'd'
	letterFile      = 'f'
	letterSymlink   = 'l'
)

func inputLetter(k store.Kind) byte {
	switch k {
	case store.KindDirectory:
		return letterDirectory
	case store.KindSymlink:
		return letterSymlink
	}
	return letterFile
}
