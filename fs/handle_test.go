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
