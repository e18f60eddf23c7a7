package builder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// message is what a child says on its control socket.
type message struct {
	says  byte
	errno unix.Errno // the reason of a failure, 0 if it is no system call's
	text  string
}

// What a child says.
const (
	saysReady  = 'r' // everything is set up; the builder starts when the parent answers
	saysFailed = 'f' // setting up failed
	saysNoExec = 'x' // the builder cannot be executed
)

// What is said of a child.
const (
	saysEnded = 'e' // it is reaped
	// Its spawner is dead, and all that it had started:
	saysUnbegun = 'u' // the builder has not begun, or
	saysLost    = 'l' // it may have
)

// maxMessage is the length in bytes of the longest message. A longer text is
// cut.
const maxMessage = 16 << 10

func (m message) append(b []byte) []byte {
	b = append(b, m.says)
	b = binary.LittleEndian.AppendUint16(b, uint16(m.errno))
	return append(b, m.text[:min(len(m.text), maxMessage-3)]...)
}

func parseMessage(b []byte) message {
	if len(b) < 3 {
		return message{says: saysFailed, text: "it speaks another language"}
	}
	return message{b[0], unix.Errno(binary.LittleEndian.Uint16(b[1:])), string(b[3:])}
}

// errnoOf is the error number that err wraps, or 0.
func errnoOf(err error) unix.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return errno
}

// ofHost reports whether a builder is called as the host's programs are, which whoever
// begins takes to be there.
func ofHost(builder string) bool {
	return strings.HasPrefix(builder, "/bin/") || strings.HasPrefix(builder, "/usr/")
}

// err is the failure that m tells of.
func (m message) err(builder string) error {
	switch m.says {
	case saysNoExec:
		hint := ""
		if m.errno == unix.ENOENT && ofHost(builder) {
			hint = " (a sandbox has nothing of the host but what --sandbox-path names: a builder is in the store, or there)"
		}
		return fail(store.CauseBuilder, "cannot execute the builder %s: %s%s", builder, m.text, hint)
	case saysUnbegun:
		return errSpawnerDied
	case saysLost:
		return errors.New("the process that starts builders has died, and with it this builder, which may have begun")
	}
	if m.errno == unix.ENOSPC || m.errno == unix.EDQUOT {
		return fmt.Errorf("set up the sandbox: %s (%w)", m.text, m.errno)
	}
	return diagnose("set up the sandbox: "+m.text, m.errno)
}

// refusal is why a spawner could not begin, as m tells.
func (m message) refusal() error {
	if isFull(m.errno) { // a limit on namespaces has another number by now
		return &diagnosed{m.text, m.errno}
	}
	return diagnose(m.text, m.errno)
}

// listen hands on what a child says, until it has become the builder, or nothing.
func listen(control *os.File, reports chan<- report) {
	buf := make([]byte, maxMessage)
	for {
		n, err := control.Read(buf)
		if n == 0 || err != nil {
			return
		}
		reports <- report{message: parseMessage(buf[:n])}
	}
}
