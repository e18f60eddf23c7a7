package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Server is a mounted store. End it by Unmount, and wait for its end by Wait.
type Server struct {
	*connection
	raw       *raw
	counts    *counted
	data      Data // never DataAuto
	transport *transport
	log       *slog.Logger

	export *export // nil if there is none

	notes *notifier
	end   context.CancelFunc // of raw.ctx: ends all waits
	done  chan struct{}      // closed when nothing of the server runs any more
}

// Mount mounts a store and begins to serve it. When it returns, the mount can
// be used. The caller's working directory must not be inside of it.
func Mount(opts Options) (*Server, error) {
	s, err := mount(opts)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", opts.Mountpoint, err)
	}
	return s, nil
}

func mount(opts Options) (*Server, error) {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	limit, err := waitLimit()
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		log.Warn("the system limits the time of FUSE requests (fs.fuse.default_request_timeout, fs.fuse.max_request_timeout): "+
			"who waits longer for a build gets ETIMEDOUT", "limit", limit)
	}
	if err := trySplice(); err != nil {
		return nil, err
	}
	b, err := openBacking(opts.Real)
	if err != nil {
		return nil, err
	}
	opts.Data = opts.Data.choose()
	c, err := connect(opts, log)
	if err != nil {
		b.close()
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	r := &raw{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		store:         opts.Store,
		realiser:      opts.Realiser,
		verifier:      opts.Verifier,
		observer:      opts.Observer,
		control:       opts.Control,
		rules:         opts.Rules,
		tellDenied:    opts.Denied,
		facts:         opts.Facts,
		waitInLookup:  opts.WaitInLookup,
		log:           log,
		uid:           uint32(unix.Geteuid()),
		gid:           uint32(unix.Getegid()),
		limit:         limit,
		waited:        c.nodes.journal.waited(),
		nodes:         c.nodes,
		backing:       b,
		data:          data{backing: b},
		snapshots:     newSnapshots(),
		changed:       &changeTime{},
		notes:         newNotifier(),
		ctx:           ctx,
	}
	if opts.Used != nil {
		r.uses = newUses(opts.Rules, opts.Used)
	}
	r.changed.advance()
	var t *transport
	fail := func(err error) (*Server, error) {
		end()
		t.close()
		b.close()
		return nil, errors.Join(err, c.abandon())
	}
	counts := &counted{RawFileSystem: r}
	t, err = c.open(r, counts, fuseOptions(opts, b, log), opts.Survive, log)
	if err != nil {
		return fail(err)
	}
	if opts.Data != DataNoOpen {
		r.data.handles = newHandles(b)
	}
	s := &Server{
		raw: r, counts: counts, data: opts.Data, transport: t, connection: c, log: log,
		notes: r.notes, end: end, done: make(chan struct{}),
	}
	if opts.Data == DataPassthrough {
		if err := r.data.handles.passthrough(c, opts.Real); err != nil {
			return fail(err)
		}
	}
	if c.taken {
		if err := s.resume(); err != nil {
			return fail(err)
		}
	} else {
		s.at.setReadAhead(log)
	}
	go s.serve()
	if !c.taken && !c.direct {
		s.at.introduce()
	}
	if opts.Export != "" {
		s.export, err = s.openExport(opts)
		switch {
		case err != nil && c.taken:
			log.Error("the store is not exported", "error", err)
		case err != nil:
			ended, end := context.WithCancel(context.Background())
			end()
			return nil, errors.Join(err, s.Unmount(ended))
		}
	}
	return s, nil
}

func (s *Server) openExport(opts Options) (*export, error) {
	e, err := newExport(opts.Export, s.at.dir, opts.state(), s.log)
	if err != nil {
		return nil, err
	}
	return e, e.open(s.at)
}

func fuseOptions(opts Options, b *backing, log *slog.Logger) *fuse.MountOptions {
	o := &fuse.MountOptions{
		EnableSymlinkCaching: true,
		DisableXAttrs:        opts.Facts == nil || opts.NoAttributes,
		DisableSplice:        true,
		MaxStackDepth:        stackDepth(b.real),
		ExtraCapabilities:    fuse.CAP_HAS_RESEND,

		Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			log.Error("panic in a request", "panic", v)
			return fuse.EIO
		},
	}
	if opts.Data != DataPassthrough {
		o.DisabledCapabilities = fuse.CAP_PASSTHROUGH
	}
	return o
}

// serve owns everything that runs for the mount.
func (s *Server) serve() {
	var notes sync.WaitGroup
	stop := make(chan struct{})
	notes.Go(func() { s.notes.run(s.device, s.raw, stop) })
	if s.raw.uses != nil {
		notes.Go(func() { s.raw.uses.run(stop) })
	}
	s.transport.serve(s.end)
	s.end()
	close(stop)
	notes.Wait()
	s.raw.calls.Wait()
	if s.raw.data.handles != nil {
		s.raw.data.handles.close()
	}
	s.raw.backing.close()
	s.connection.close()
	close(s.done)
}

// Wait returns when the mount has ended, by Unmount or by somebody else's
// umount, and nothing of the server runs any more.
func (s *Server) Wait() { <-s.done }

// Data is how the contents of files reach the kernel: never DataAuto.
func (s *Server) Data() Data { return s.data }

// Nodes is how many files and directories the kernel remembers, the root among
// them.
func (s *Server) Nodes() int { return s.raw.nodes.size() }

// Requests are how many requests of the kernel were answered, by their names.
func (s *Server) Requests() map[string]uint64 { return s.counts.requests() }

// Changed says that the names that are valid have changed. It never blocks.
func (s *Server) Changed() {
	s.raw.changed.advance()
	s.notes.add(nil)
}

// Deleted says that the store objects of these names (DIGEST-NAME) are no
// longer valid. It never blocks. Files that are open can still be read as far
// as the kernel has them.
func (s *Server) Deleted(names []string) {
	var gone []*node
	for _, name := range names {
		gone = append(gone, s.nodes.unname(name, false)...)
	}
	s.raw.changed.advance()
	s.notes.add(gone)
}

// Replacing says that another object is about to take the place of this name's
// (DIGEST-NAME), so that the kernel will hear of that also if this server does not live
// to be told. The caller calls done when it has told it (Replaced, Deleted), or nothing
// was replaced.
func (s *Server) Replacing(name string) (done func()) {
	s.nodes.doubt(name, true)
	return func() { s.nodes.doubt(name, false) }
}

// Replaced says that the store object of this name (DIGEST-NAME) was damaged, and
// another one with the contents that it should have has its place. Whoever looks the
// name up finds that one, and who has files of the old one open goes on in the new, unless
// they have another size. Before, it is Deleted for the kernel. It never blocks.
func (s *Server) Replaced(name string) {
	gone := s.nodes.unname(name, true)
	if len(gone) == 0 {
		return
	}
	s.raw.backing.renew(s.nodes.below(gone))
	s.raw.changed.advance()
	s.notes.add(gone)
}

// Told returns a channel that is closed when the kernel has heard of all
// changes and deletions of which the server was told before. That may take as
// long as a caller waits in a LOOKUP, or never come if the mount ends.
func (s *Server) Told() <-chan struct{} { return s.notes.told() }

// busyTime is how long processes that were blocked may take to leave the mount
// before it counts as busy.
const busyTime = 500 * time.Millisecond

// Unmount ends all waits (the callers get ENODEV) and unmounts. A mount that
// is still in use is detached: new callers do not find it, and it is served
// until its last user is gone or the process ends. Unmount waits for that as
// long as ctx lasts, and then returns an error that is EBUSY. It touches no
// other mount that may lie at the same place by now.
func (s *Server) Unmount(ctx context.Context) error {
	s.end()
	if s.export != nil {
		s.export.close(s.at)
	}
	if err := s.unmount(ctx); err != nil {
		return fmt.Errorf("unmount %s: %w", s.at.dir, err)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: it is detached, and in use still: %w", s.at.dir, unix.EBUSY)
	}
}

func (s *Server) unmount(ctx context.Context) error {
	deadline := time.Now().Add(busyTime)
	for {
		if m, found := mountAt(s.at.dir); !found || m.id != s.at.id {
			if listed, err := s.at.listed(); err != nil || listed {
				return errors.Join(err, errors.New("another mount lies over it"))
			}
			return nil // somebody else unmounted it
		}
		err := unmountAt(s.at.dir, s.direct, false)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return unmountAt(s.at.dir, s.direct, true)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
