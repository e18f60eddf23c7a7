package fs

import (
	"container/list"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxSnapshot bounds the entries of all snapshots together, except that the
// one in use is kept however large it is. About 7 MB.
const maxSnapshot = 1 << 15

// dirent is one entry of a real directory.
type dirent struct {
	name string
	mode uint32 // the S_IFMT part
	ino  uint64
}

// snapshots are the sorted entries of directories, and their attributes. As
// directories do not change, a snapshot that was thrown away and is read again
// has the same offsets.
//
// They are kept also when the kernel has forgotten the directory: the next walk
// over it takes the server half of the time then.
type snapshots struct {
	mu      sync.Mutex
	entries int
	byKey   map[snapshotKey]*list.Element // of *snapshot
	lru     *list.List                    // most recently used first
}

// snapshotKey is a directory, and no other: one that gets the same inode later,
// with the same name or another, is made at another time. What is there by a
// name may be deleted and built again, with other contents.
type snapshotKey struct {
	device, inode uint64
	changed       unix.Timespec
}

func keyOf(st *unix.Stat_t) snapshotKey { return snapshotKey{st.Dev, st.Ino, st.Ctim} }

type snapshot struct {
	key     snapshotKey
	entries []dirent
	stats   []atomic.Pointer[unix.Stat_t] // of the entries; nil if nobody asked yet
}

func newSnapshots() *snapshots {
	return &snapshots{byKey: make(map[snapshotKey]*list.Element), lru: list.New()}
}

// get returns the entries of a directory, by read if they are not here. Nobody
// may change them.
func (s *snapshots) get(key snapshotKey, read func() ([]dirent, error)) (*snapshot, error) {
	s.mu.Lock()
	if e := s.byKey[key]; e != nil {
		s.lru.MoveToFront(e)
		s.mu.Unlock()
		return e.Value.(*snapshot), nil
	}
	s.mu.Unlock()
	entries, err := read()
	if err != nil {
		return nil, err
	}
	v := &snapshot{key, entries, make([]atomic.Pointer[unix.Stat_t], len(entries))}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[key]; e != nil {
		return e.Value.(*snapshot), nil
	}
	s.byKey[key] = s.lru.PushFront(v)
	s.entries += len(entries)
	for s.entries > maxSnapshot && s.lru.Len() > 1 {
		s.remove(s.lru.Back())
	}
	return v, nil
}

// stat describes the entry i of the snapshot, whose directory is open as dir.
func (v *snapshot) stat(i uint64, dir int) (*unix.Stat_t, error) {
	if st := v.stats[i].Load(); st != nil {
		return st, nil
	}
	st, err := statAt(dir, v.entries[i].name)
	if err != nil {
		return nil, err
	}
	v.stats[i].Store(&st)
	return &st, nil
}

func (s *snapshots) remove(e *list.Element) {
	v := s.lru.Remove(e).(*snapshot)
	delete(s.byKey, v.key)
	s.entries -= len(v.entries)
}

// list reads the directory n, sorted by name.
func (b *backing) list(n *node) ([]dirent, error) {
	// A descriptor of its own: those of the cache share one position.
	fd, err := b.reach(n, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var entries []dirent
	buf := make([]byte, 64<<10)
	for {
		size, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if size == 0 {
			break
		}
		for rest := buf[:size]; len(rest) > 0; {
			var e fuse.DirEntry
			rest = rest[e.Parse(rest):]
			if e.Name != "." && e.Name != ".." {
				entries = append(entries, dirent{e.Name, e.Mode, e.Ino})
			}
		}
	}
	slices.SortFunc(entries, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}
