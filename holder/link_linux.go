package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Link is a server's end of the connection to its holder. When the holder dies
// it starts another one.
type Link struct {
	args []string
	say  func(string)

	parted  chan struct{} // closed when the holder says so
	readied chan struct{} // closed by Ready
	refused chan string
	asking  chan struct{} // has an element while an upgrade is asked for: an answer is to one
	done    chan struct{} // closed when nothing of the link runs any more

	mu     sync.Mutex
	change *sync.Cond // of what there is to keep
	socket *socket
	holder int           // the process
	gone   chan struct{} // closed when it has died
	files  []*os.File    // what a holder keeps, the server's own
	ready  bool
	ending bool
	closed bool
}

// ErrAlone: the server has no holder at the moment.
var ErrAlone = errors.New("the holder is gone")

// Connect returns the link of a process that a holder has started, and nil in
// any other. Args are the arguments of the server, its name first, for the next
// holder; say tells people something.
func Connect(args []string, say func(string)) (*Link, error) {
	value := os.Getenv(envLink)
	if value == "" {
		return nil, nil
	}
	os.Unsetenv(envLink)
	// It was started as /proc/self/exe, and would be known as "exe".
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(args[0])), 0)
	fd, err := strconv.Atoi(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envLink, err)
	}
	s := newSocket(fd)
	l := &Link{
		holder:  s.maker(),
		args:    args,
		say:     say,
		parted:  make(chan struct{}),
		readied: make(chan struct{}),
		refused: make(chan string),
		asking:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		gone:    make(chan struct{}),
		socket:  s,
	}
	l.change = sync.NewCond(&l.mu)
	return l, nil
}

// Holder is the process that holds the mount, 0 if that is not known.
func (l *Link) Holder() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder
}

// Take says that this server can begin, and waits until it may: until nobody
// else serves. It returns what was held, nothing if there is no mount yet. Close
// the link afterwards, also after an error.
func (l *Link) Take(ctx context.Context) ([]*os.File, error) {
	s := l.socket
	stop := context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Now()) })
	p, err := func() (packet, error) {
		// A holder that has died may have said what there is to take.
		l.mu.Lock()
		err := l.tell(packetStandingBy, heir)
		l.mu.Unlock()
		if err != nil {
			return packet{}, err
		}
		return l.await(ctx)
	}()
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && p.kind != packetTake {
		err = fmt.Errorf("it says %q", p.kind)
	}
	if err != nil {
		close(l.done)
		closeAll(p.files)
		return nil, fmt.Errorf("wait for the holder: %w", err)
	}
	l.files = p.files
	go l.listen()
	return p.files, nil
}

// await waits for what to take. A holder that dies when it has told the server before
// to part leaves the rest to this one.
func (l *Link) await(ctx context.Context) (packet, error) {
	p, err := l.socket.receive()
	if err != nil || p.kind != packetSpare {
		return p, err
	}
	s := newSpare(p)
	defer s.close()
	p, err = l.socket.receive()
	if err == nil || ctx.Err() != nil || !s.parted() {
		return p, err
	}
	return packet{kind: packetTake, files: s.take()}, nil
}

// Hold lets the holder keep files, which stay open until the link is closed.
func (l *Link) Hold(files []*os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = files
	l.change.Broadcast()
	return l.tell(packetHold, "", files...)
}

// Ready says, once, that the mount can be used.
func (l *Link) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = true
	close(l.readied)
	return l.tell(packetReady, "")
}

// Ending says that the mount ends, and that nobody is to start it again.
func (l *Link) Ending() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files, l.ending = nil, true
	l.change.Broadcast()
	return l.tell(packetEnding, "")
}

// Status says what the service manager may show of the service, after Ready. A holder that
// does not listen misses it.
func (l *Link) Status(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.socket.try(packetStatus, line)
}

// tell needs l.mu. What a holder that has just died did not hear, the next one
// will be told.
func (l *Link) tell(kind byte, text string, files ...*os.File) error {
	err := l.socket.send(kind, text, files...)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Upgrade starts program in the place of this server. When it returns nil, that
// one is waiting, and Parted is about to be closed. When ctx ends before that, it is
// called off.
func (l *Link) Upgrade(ctx context.Context, program string) error {
	select {
	case <-l.readied: // before, the last upgrade is not over
	case <-l.done:
		return ErrAlone
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-time.After(answerTime): // one that was called off just now is over by then
		return errors.New("another upgrade is under way")
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	gone := l.gone
	err := l.socket.send(packetUpgrade, program)
	l.mu.Unlock()
	if err != nil {
		return ErrAlone
	}
	select {
	case <-l.parted:
	case why := <-l.refused:
		err = errors.New(why)
	case <-gone: // and with it the new program
		err = ErrAlone
	case <-l.done:
		err = ErrAlone
	case <-ctx.Done():
		l.callOff()
		err = ctx.Err()
	}
	select {
	case <-l.parted: // then the server ends, and with it all else
		return nil
	default:
		return err
	}
}

// callOff ends an upgrade. It waits for the answer, which the next one would take for
// its own.
func (l *Link) callOff() {
	l.mu.Lock()
	err := l.tell(packetCallOff, "")
	l.mu.Unlock()
	if err != nil {
		return
	}
	select {
	case <-l.parted:
	case <-l.refused:
	case <-l.done:
	case <-time.After(answerTime): // a holder of an older version does not know the question
	}
}

// Parted is closed when the server has to leave the mount to another one that
// is waiting for it. It is killed if that takes long.
func (l *Link) Parted() <-chan struct{} { return l.parted }

// Close ends the link. A holder takes that for nothing: it waits for the end of
// the process.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	l.change.Broadcast()
	// The other end stays open for it: it is not told that the link is closed.
	_ = l.socket.file.SetReadDeadline(time.Now())
	l.mu.Unlock()
	<-l.done
}

// listen owns the connection, and the holders that are this process's children.
func (l *Link) listen() {
	defer close(l.done)
	var child *exec.Cmd
	for deaths := 0; ; {
		born := time.Now()
		left := l.hear()
		l.mu.Lock()
		close(l.gone)
		for len(l.files) == 0 && !l.ending && !l.closed && !left {
			l.change.Wait() // the mount is about to be made
		}
		over := l.ending || l.closed || left
		l.mu.Unlock()
		if over {
			return
		}
		if child != nil {
			_ = child.Wait()
		}
		if time.Since(born) > stable {
			deaths = 0
		}
		if deaths++; deaths >= maxDeaths {
			l.say(fmt.Sprintf("storefs: the holder died %d times in a row: the mount does not survive this process any more", deaths))
			return
		}
		var err error
		if child, err = l.start(); err != nil {
			l.say("storefs: the mount does not survive this process any more: start a holder: " + err.Error())
			return
		}
		l.say(fmt.Sprintf("storefs: the holder died; the next one is process %d", child.Process.Pid))
	}
}

// hear returns when the holder has gone, or the link is closed, and reports whether
// an heir has the mount then.
func (l *Link) hear() (left bool) {
	for {
		p, err := l.socket.receive()
		if err != nil {
			return left
		}
		switch p.kind {
		case packetPart:
			for _, f := range p.files {
				_, err := f.Write([]byte{packetPart})
				left = err == nil // else it has gone
			}
			select {
			case <-l.parted:
			default:
				close(l.parted)
			}
		case packetRefused:
			select {
			case l.refused <- p.text:
			case <-time.After(time.Second): // who asked has gone
			}
		}
		closeAll(p.files)
	}
}

// start starts a holder that adopts this process.
func (l *Link) start() (*exec.Cmd, error) {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, err
	}
	pidfd := os.NewFile(uintptr(self), "self")
	defer pidfd.Close()
	ours, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", l.args[1:]...)
	cmd.Args[0] = Name
	cmd.Env = append(os.Environ(), envAdopt+"=3")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		ours.close()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.socket.close()
	l.socket, l.holder, l.gone = ours, cmd.Process.Pid, make(chan struct{})
	if l.closed {
		_ = ours.file.SetReadDeadline(time.Now())
	}
	err = errors.Join(
		l.tell(packetAdopt, strconv.Itoa(os.Getpid()), pidfd),
		l.tell(packetHold, "", l.files...),
	)
	if err == nil && l.ready {
		err = l.tell(packetReady, "")
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return cmd, err
}
