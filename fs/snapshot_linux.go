package fs

import (
	"container/list"
	"slices"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maxSnapshot bounds the entries of all snapshots together, except that the
// one in use is kept however large it is. About 6 MB.
const maxSnapshot = 1 << 16

// dirent is one entry of a real directory.
type dirent struct {
	name string
	mode uint32 // the S_IFMT part
	ino  uint64
}

// snapshots are the sorted entries of the directories that are being listed.
// As directories do not change, a snapshot that was thrown away and is read
// again has the same offsets.
type snapshots struct {
	mu      sync.Mutex
	entries int
	byNode  map[uint64]*list.Element // of *snapshot
	lru     *list.List               // most recently used first
}

type snapshot struct {
	id      uint64
	entries []dirent
}

func newSnapshots() *snapshots {
	return &snapshots{byNode: make(map[uint64]*list.Element), lru: list.New()}
}

// get returns the entries of n, by read if they are not here. Nobody may
// change them.
func (s *snapshots) get(n *node, read func() ([]dirent, error)) ([]dirent, error) {
	s.mu.Lock()
	if e := s.byNode[n.id]; e != nil {
		s.lru.MoveToFront(e)
		s.mu.Unlock()
		return e.Value.(*snapshot).entries, nil
	}
	s.mu.Unlock()
	entries, err := read()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byNode[n.id] == nil {
		s.byNode[n.id] = s.lru.PushFront(&snapshot{n.id, entries})
		s.entries += len(entries)
		for s.entries > maxSnapshot && s.lru.Len() > 1 {
			s.remove(s.lru.Back())
		}
	}
	return entries, nil
}

func (s *snapshots) remove(e *list.Element) {
	v := s.lru.Remove(e).(*snapshot)
	delete(s.byNode, v.id)
	s.entries -= len(v.entries)
}

// forget drops the snapshot of a node that no longer exists.
func (s *snapshots) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byNode[id]; e != nil {
		s.remove(e)
	}
}

// list reads the directory n, sorted by name.
func (b *backing) list(n *node) ([]dirent, error) {
	// A descriptor of its own: those of the cache share one position.
	fd, err := openBeneath(b.real, n.path(), unix.O_RDONLY|unix.O_DIRECTORY)
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
