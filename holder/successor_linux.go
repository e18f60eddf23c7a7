package holder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// become makes this process a holder of the new program, as which it goes on
// where it is now. Servers that have to be started again are the new program's
// from here on.
func (h *holder) become(program string) (status int, end bool) {
	p := h.current
	h.newer = ""
	// What p has said is acted upon first: the new program would not hear it.
	_ = p.socket.file.SetReadDeadline(time.Now())
	for silent := false; !silent; {
		switch e := (<-h.events).(type) {
		case came:
			status, end = h.take(e)
		case died:
			status, end = h.bury(e)
		case hushed:
			silent = true
		}
		if end || h.current != p {
			return status, end
		}
	}
	h.flush()
	// What is not heard now is lost: Go lets no signal wait for the next program.
	select {
	case s := <-h.signals:
		h.stop(s)
	default:
	}
	if h.next == nil { // else the next upgrade has begun
		err := h.exec(program)
		h.say("the holder goes on as the program before: %v", err)
	}
	_ = p.socket.file.SetReadDeadline(time.Time{})
	h.listen(p)
	return 0, false
}

// exec returns only if it failed.
func (h *holder) exec(program string) error {
	var passed copies
	defer passed.close()
	server, err := h.current.passed(&passed)
	if err != nil {
		return err
	}
	state := []string{server}
	for _, f := range h.files {
		fd, err := passed.add(f.Fd())
		if err != nil {
			return err
		}
		state = append(state, strconv.Itoa(fd))
	}
	env := append(os.Environ(), envState+"="+strings.Join(state, ","))
	return unix.Exec(program, append([]string{Name}, h.Args[1:]...), env)
}

// resume is what become left.
func (h *holder) resume(state string) error {
	parts := strings.Split(state, ",")
	p, fd := &process{readyAt: time.Now()}, 0
	if _, err := fmt.Sscanf(parts[0], "%d %d %d %t", &p.pid, &p.pidfd, &fd, &p.child); err != nil {
		return fmt.Errorf("%s: %w", envState, err)
	}
	unix.CloseOnExec(p.pidfd)
	p.socket = newSocket(fd)
	for _, s := range parts[1:] {
		fd, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%s: %w", envState, err)
		}
		unix.CloseOnExec(fd)
		h.files = append(h.files, os.NewFile(uintptr(fd), "held"))
	}
	h.told = true
	h.current = p
	h.listen(p)
	return nil
}

// adopt begins with a server that has lost its holder.
func (h *holder) adopt(fd string) error {
	n, err := strconv.Atoi(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", envAdopt, err)
	}
	p := &process{socket: newSocket(n), readyAt: time.Now()}
	first, err := p.socket.receive()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if first.kind != packetAdopt || len(first.files) != 1 {
		return errors.New("there is no server to adopt")
	}
	if p.pidfd, err = unix.FcntlInt(first.files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	closeAll(first.files)
	p.pid, _ = strconv.Atoi(first.text)
	h.told = true
	h.current = p
	h.listen(p)
	return nil
}
