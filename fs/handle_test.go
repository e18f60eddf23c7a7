package fs

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Of two who open a file at once, each has made a backing id: the next server must
// know the one that the kernel has.
func TestBackingThatIsKept(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := openBacking(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	table := newNodes()
	keep(t, table)
	defer table.close()
	n := table.object("x", unix.S_IFREG)

	handles := newHandles(b)
	var last, closed atomic.Int32
	var both sync.WaitGroup
	both.Add(2)
	handles.register = func(int) (int32, error) {
		id := last.Add(1)
		both.Done()
		both.Wait()
		return id, nil
	}
	handles.unregister = func(id int32) { closed.Store(id) }
	handles.keep = table.keepBacking
	var opens sync.WaitGroup
	var ids [2]int32
	for i := range ids {
		opens.Go(func() { ids[i], _ = handles.open(n) })
	}
	opens.Wait()
	if ids[0] != ids[1] || closed.Load() != 3-ids[0] {
		t.Errorf("they got %v, and %d was closed", ids, closed.Load())
	}
	if kept := table.backings(); len(kept) != 1 || kept[n.id] != ids[0] {
		t.Errorf("%v is kept, and %d is used", kept, ids[0])
	}
	handles.release(n.id)
	handles.release(n.id)
	handles.forget(n.id)
	if kept := table.backings(); len(kept) != 0 || closed.Load() != ids[0] {
		t.Errorf("%v is kept after the end, and %d was closed", kept, closed.Load())
	}
}

// The kernel may forget a file before it says that it was closed.
func TestHandleOutlivesItsNode(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := openBacking(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	table := newNodes()
	n := table.object("x", unix.S_IFREG)
	handles := newHandles(b)
	defer handles.close()
	if _, err := handles.open(n); err != nil {
		t.Fatal(err)
	}
	handles.forget(n.id)
	fd, ok := handles.use(n.id)
	if size, err := unix.Read(fd, make([]byte, 8)); !ok || size != 4 || err != nil {
		t.Errorf("what is in use cannot be read: %v, %d bytes, %v", ok, size, err)
	}
	handles.release(n.id)
	handles.release(n.id)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF || len(handles.byNode) != 0 {
		t.Errorf("it stays open: %v, %d files", err, len(handles.byNode))
	}
}

// Of what another server has opened for the kernel it is not known who has it open: that
// is kept until the kernel forgets the file.
func TestRestoredHandle(t *testing.T) {
	handles := newHandles(nil)
	handles.unregister = func(id int32) {
		if id != 7 || len(handles.byNode) > 0 {
			t.Errorf("%d is closed, %d files are left", id, len(handles.byNode))
		}
		handles.byNode = nil
	}
	handles.keep = func(uint64, int32) {}
	n := &node{id: 5}
	handles.restore(n.id, 7)
	for range 3 {
		if id, err := handles.open(n); id != 7 || err != nil {
			t.Errorf("%d, %v", id, err)
		}
		if _, ok := handles.use(n.id); ok {
			t.Error("it can be read here")
		}
		handles.release(n.id)
		handles.release(n.id)
		if h := handles.byNode[n.id]; h.users == 0 || handles.idle.Len() > 0 {
			t.Error("nobody has it open")
		}
	}
	if handles.forget(n.id); handles.byNode != nil {
		t.Error("it stays open")
	}
}
