package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Held is a mount apart from the server: whoever has both files open keeps the
// mount alive while nobody serves it. Callers wait then.
type Held struct {
	Device  *os.File // the connection to the kernel
	Journal *os.File // what a server has to know of it
}

// connection is a mount with the nodes that the kernel knows of it.
type connection struct {
	device *device
	at     mounted
	direct bool // mounted by a system call, and not by fusermount3
	nodes  *nodes
	taken  bool // over, from another server
}

// connect mounts, or takes over what is held.
func connect(opts Options, log *slog.Logger) (*connection, error) {
	if opts.Held != nil {
		c, err := takeOver(opts)
		if err != nil {
			return nil, fmt.Errorf("take the mount over: %w", err)
		}
		return c, nil
	}
	dir, err := prepareMountpoint(opts, log)
	if err != nil {
		return nil, err
	}
	direct, err := checkPrivilege(opts.AllowOther)
	if err != nil {
		return nil, err
	}
	c := &connection{direct: direct, nodes: newNodes()}
	if c.device, err = openDevice(dir, opts.AllowOther, direct); err != nil {
		return nil, err
	}
	var found bool
	if c.at, found = mountAt(dir); !found || !c.at.ours() {
		c.device.file.Close()
		return nil, errors.Join(errors.New("the mount is not in /proc/self/mountinfo"), unmountAt(dir, direct, true))
	}
	return c, nil
}

// takeOver finds out what another server has left. It must not look at the mount
// point: nobody answers there before this process does.
func takeOver(opts Options) (*connection, error) {
	h, err := opts.Held.read()
	if err != nil {
		return nil, err
	}
	c := &connection{
		device: &device{file: opts.Held.Device, init: slices.Clone(text(h.init[:])), reply: slices.Clone(text(h.reply[:]))},
		at:     h.mounted(),
		direct: h.direct != 0,
		taken:  true,
	}
	if c.nodes, err = restoreNodes(opts.Held.Journal); err != nil {
		return nil, fmt.Errorf("read what the kernel knows: %w", err)
	}
	return c, nil
}

// open gets ready to serve r.
func (c *connection) open(r *raw, counts *counted, o *fuse.MountOptions, survive bool, log *slog.Logger) (*transport, error) {
	t, err := newTransport(c.device, r, counts, o, log)
	if err != nil {
		return nil, err
	}
	if c.taken {
		for _, n := range c.nodes.byID {
			if n.kind == kindControlFile {
				r.restoreText(n)
			}
		}
		return t, nil
	}
	if survive && !c.device.resendable() {
		log.Warn("the mount does not survive its server: that needs Linux 6.9 or later")
		survive = false
	}
	if survive {
		if c.nodes.journal, err = newJournal(c.at, c.device, c.direct); err != nil {
			log.Warn("the mount does not survive its server", "error", err)
		}
	}
	return t, nil
}

// abandon undoes connect, after an error.
func (c *connection) abandon() error {
	defer c.close()
	if c.taken {
		return nil // another server may try again
	}
	return unmountAt(c.at.dir, c.direct, true)
}

func (c *connection) close() {
	c.nodes.close()
	c.device.file.Close()
}

// Held is what another process has to keep so that the mount survives this one,
// still the server's own. It is nil if the mount does not survive, or no longer,
// for lack of memory.
func (s *Server) Held() *Held {
	s.nodes.mu.RLock()
	defer s.nodes.mu.RUnlock()
	j := s.nodes.journal
	if j == nil || j.lost != nil {
		return nil
	}
	return &Held{Device: s.device.file, Journal: j.file}
}

// Part leaves the mount as it is to a later server: what callers are waiting
// for is answered by that one. This process has to end before it begins.
func (s *Server) Part() { s.transport.part() }

// Alive reports whether the mount has neither been unmounted nor aborted.
func (h *Held) Alive() bool {
	fds := []unix.PollFd{{Fd: int32(h.Device.Fd())}}
	_, err := retry(func() (int, error) { return unix.Poll(fds, 0) })
	return err == nil && fds[0].Revents&unix.POLLERR == 0
}

// Detach gives the mount up: new callers do not find it, and those that wait
// get an error as soon as nobody has it open any more.
func (h *Held) Detach() error {
	head, err := h.read()
	if err != nil {
		return err
	}
	m := head.mounted()
	if m.id == 0 || !h.Alive() && !dead(m.dir) {
		return nil // it has gone, and another server's may have its place, and its number
	}
	return unmountAt(m.dir, head.direct != 0, true)
}

// Close closes the files.
func (h *Held) Close() {
	h.Device.Close()
	h.Journal.Close()
}

func (h *Held) read() (*header, error) {
	head := new(header)
	b := unsafe.Slice((*byte)(unsafe.Pointer(head)), unsafe.Sizeof(*head))
	if _, err := unix.Pread(int(h.Journal.Fd()), b, 0); err != nil {
		return nil, fmt.Errorf("read what is held: %w", err)
	}
	if err := head.check(); err != nil {
		return nil, fmt.Errorf("what is held: %w", err)
	}
	return head, nil
}

// mounted is the mount that the header describes, with the id of 0 if it is
// not, or no longer, on top at its place. The device's number alone does not say
// so: it is given to another file system as soon as the mount has gone.
func (h *header) mounted() mounted {
	dir := string(text(h.dir[:]))
	if m, found := mountAt(dir); found && m.ours() && m.major == int(h.major) && m.minor == int(h.minor) {
		return m
	}
	return mounted{dir: dir, major: int(h.major), minor: int(h.minor)}
}

// resume goes on where another server ended: it makes the kernel ask again for
// what may have changed since, and repeat what was not answered.
func (s *Server) resume() error {
	names := s.nodes.named()
	slices.Sort(names) // as the store's database has them: neighbours are on one page
	for _, name := range names {
		e, err := s.raw.store.Lookup(name)
		if Errno(err) == unix.ENOENT || err == nil && !e.Valid {
			s.nodes.unname(name, false)
		}
	}
	// Those too that were gone before: the other server may have had no time to tell.
	gone := s.nodes.gone()
	for _, n := range gone {
		// Before anybody is answered: the deletion itself was, maybe.
		_ = s.device.InodeNotify(n.id, -1, 0)
	}
	s.notes.add(gone)
	return s.device.resend()
}
