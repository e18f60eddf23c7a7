package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Server is a mounted store. End it by Unmount, and wait for its end by Wait.
type Server struct {
	raw    *raw
	counts *counted
	data   Data // never DataAuto
	fuse   *fuse.Server
	at     mounted
	direct bool // mounted by a system call, and not by fusermount3
	log    *slog.Logger

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
	dir, err := prepareMountpoint(opts, log)
	if err != nil {
		return nil, err
	}
	limit, err := waitLimit()
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		log.Warn("the system limits the time of FUSE requests (fs.fuse.default_request_timeout, fs.fuse.max_request_timeout): "+
			"who waits longer for a build gets ETIMEDOUT", "limit", limit)
	}
	direct, err := checkPrivilege(opts.AllowOther)
	if err != nil {
		return nil, err
	}
	opts.Data = opts.Data.choose()
	b, err := openBacking(opts.Real)
	if err != nil {
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
		facts:         opts.Facts,
		waitInLookup:  opts.WaitInLookup,
		log:           log,
		uid:           uint32(unix.Geteuid()),
		gid:           uint32(unix.Getegid()),
		limit:         limit,
		nodes:         newNodes(),
		backing:       b,
		data:          data{backing: b},
		snapshots:     newSnapshots(),
		changed:       &changeTime{},
		ctx:           ctx,
	}
	if opts.Used != nil {
		r.uses = newUses(opts.Rules, opts.Used)
	}
	r.changed.advance()
	fail := func(err error) (*Server, error) {
		end()
		b.close()
		return nil, err
	}
	if opts.Data != DataNoOpen {
		r.data.handles = newHandles(b)
	}
	counts := &counted{RawFileSystem: r}
	server, err := fuse.NewServer(counts, dir, mountOptions(opts, b, direct, log))
	if err != nil {
		// It may have mounted and then failed to agree with the kernel.
		if m, found := mountAt(dir); found && m.ours() {
			return fail(errors.Join(err, unmountAt(dir, direct, true)))
		}
		if !direct {
			err = fmt.Errorf("fusermount3 did not mount, and says why on standard error: %s", strings.TrimSpace(err.Error()))
		}
		return fail(err)
	}
	if opts.Data == DataPassthrough {
		if err := r.data.handles.passthrough(server, opts.Real); err != nil {
			return fail(errors.Join(err, unmountAt(dir, direct, true)))
		}
	}
	s := &Server{raw: r, counts: counts, data: opts.Data, fuse: server, direct: direct, log: log, notes: newNotifier(), end: end, done: make(chan struct{})}
	go s.serve()
	var found bool
	if s.at, found = mountAt(dir); !found || !s.at.ours() {
		err := unmountAt(dir, direct, true)
		if err == nil {
			<-s.done
		}
		return nil, errors.Join(errors.New("the mount is not in /proc/self/mountinfo"), err)
	}
	s.at.setReadAhead(log)
	return s, nil
}

func mountOptions(opts Options, b *backing, direct bool, log *slog.Logger) *fuse.MountOptions {
	o := &fuse.MountOptions{
		AllowOther: opts.AllowOther,
		FsName:     fsName,
		Name:       fsName,
		// default_permissions: the kernel decides by the attributes, and asks
		// for those of a placeholder before it goes on.
		Options: []string{"default_permissions"},
		// Read-only as a property of the superblock: else every read makes
		// the attributes (its access time) out of date.
		DirectMountStrict: direct,
		DirectMountFlags:  unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV,

		EnableSymlinkCaching: true,
		DisableXAttrs:        opts.Facts == nil || opts.NoAttributes,
		DisableSplice:        true,
		// Also the size of the largest READ: with the default of 128 KiB, the
		// first read of a big file takes a third longer.
		MaxWrite:      1 << 20,
		MaxStackDepth: stackDepth(b.real),

		Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			log.Error("panic in a request", "panic", v)
			return fuse.EIO
		},
	}
	if opts.Data != DataPassthrough {
		o.DisabledCapabilities = fuse.CAP_PASSTHROUGH
	}
	if !direct {
		o.Options = append(o.Options, "ro", "nosuid", "nodev")
	}
	return o
}

// serve owns everything that runs for the mount.
func (s *Server) serve() {
	var notes sync.WaitGroup
	stop := make(chan struct{})
	notes.Go(func() { s.notes.run(s.fuse, func() bool { return s.raw.lookups.Load() > 0 }, stop) })
	if s.raw.uses != nil {
		notes.Go(func() { s.raw.uses.run(stop) })
	}
	s.fuse.Serve()
	s.end()
	close(stop)
	notes.Wait()
	s.raw.calls.Wait()
	if s.raw.data.handles != nil {
		s.raw.data.handles.close()
	}
	s.raw.backing.close()
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
	for _, name := range names {
		s.raw.nodes.unname(name)
	}
	s.raw.changed.advance()
	s.notes.add(names)
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
	if err := s.unmount(ctx); err != nil {
		return fmt.Errorf("unmount %s: %w", s.at.dir, err)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: detached, but still in use: %w", s.at.dir, unix.EBUSY)
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
			s.log.Warn("the mount is in use and was detached", "mountpoint", s.at.dir, "error", err)
			return unmountAt(s.at.dir, s.direct, true)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
