package builder

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// begunTable is memory that a spawner shares with its owner, in which it marks a build
// just before it lets the builder go: so that its owner knows, once it is dead, which
// builders have never begun, without having been told of any while it lived.
//
// Builds have numbers, which grow. There is one place for many of them, with the largest
// one that was marked there: a number above it was not. That one below it was, or one that
// is not its own, is not certain, and taken for granted.
type begunTable [begunPlaces]atomic.Uint64

// begunPlaces makes a table as large as a page.
const begunPlaces = 512

func (t *begunTable) place(id uint64) *atomic.Uint64 { return &t[id%begunPlaces] }

// mark says that a builder may begin from now on. Only the spawner does this.
func (t *begunTable) mark(id uint64) {
	if p := t.place(id); p.Load() < id {
		p.Store(id)
	}
}

// may reports whether a builder may have begun.
func (t *begunTable) may(id uint64) bool { return t.place(id).Load() >= id }

// newBegunTable makes one, and a file for mapBegunTable.
func newBegunTable() (t *begunTable, file *os.File, err error) {
	fd, err := unix.MemfdCreate("begun", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("memfd_create", err)
	}
	file = os.NewFile(uintptr(fd), "begun")
	if err = unix.Ftruncate(fd, int64(unsafe.Sizeof(*t))); err == nil {
		t, err = mapBegunTable(fd)
	}
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("make a table of builds: %w", err)
	}
	return t, file, nil
}

func mapBegunTable(fd int) (*begunTable, error) {
	memory, err := unix.MmapPtr(fd, 0, nil, unsafe.Sizeof(begunTable{}), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return (*begunTable)(memory), nil
}

func (t *begunTable) unmap() { _ = unix.MunmapPtr(unsafe.Pointer(t), unsafe.Sizeof(*t)) }
