package builder

import (
	"bytes"
	"strings"

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

	Personality uintptr // flags of personality(2)
	Builder     []byte
	Args        []byte // each ended by NUL: arguments and variables are bytes, which JSON's strings are not
	Env         []byte // likewise
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

func joinNUL(list []string) []byte {
	var b bytes.Buffer
	for _, s := range list {
		b.WriteString(s)
		b.WriteByte(0)
	}
	return b.Bytes()
}

func splitNUL(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b[:len(b)-1]), "\x00")
}
