package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"storefs/store"
)

func TestErrno(t *testing.T) {
	failure := func(c store.Cause, chain ...store.Path) error {
		return fmt.Errorf("realise: %w", &store.Failure{Cause: c, Chain: chain})
	}
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{store.ErrUnknown, syscall.ENOENT},
		{store.ErrBadPath, syscall.ENOENT},
		{failure(store.CauseUnknown), syscall.ENOENT},
		{failure(store.CauseUnknown, "/s/a", "/s/b"), syscall.EIO},
		{store.ErrBuildFailed, syscall.EIO},
		{failure(store.CauseBuilder, "/s/a", "/s/b"), syscall.EIO},
		{failure(store.CauseHash), syscall.EIO},
		{failure(store.CauseDeterminism), syscall.EIO},
		{failure(store.CauseRefused), syscall.EIO},
		{failure(store.CauseCycle), syscall.EIO},
		{failure(store.CauseExpr), syscall.EIO},
		{failure(store.CauseSystem), syscall.EIO},
		{store.ErrNotValid, syscall.EIO},
		{errors.New("anything"), syscall.EIO},
		{failure(store.CauseTimeout, "/s/a", "/s/b"), syscall.ETIMEDOUT},
		{context.DeadlineExceeded, syscall.ETIMEDOUT},
		{failure(store.CauseUnreachable), syscall.EHOSTUNREACH},
		{failure(store.CauseNoSpace), syscall.ENOSPC},
		{fmt.Errorf("write: %w", unix.ENOSPC), syscall.ENOSPC},
		{fmt.Errorf("write: %w", unix.EDQUOT), syscall.ENOSPC},
		{store.ErrNotAllowed, syscall.EACCES},
		{errWrite, syscall.EROFS},
		{errKilled, syscall.EINTR},
		{errEnded, syscall.ENODEV},
		{failure(store.CauseCancelled), syscall.ECANCELED},
		{context.Canceled, syscall.ECANCELED},
	} {
		if got := Errno(c.err); got != c.want {
			t.Errorf("Errno(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestFatalSignals(t *testing.T) {
	set := func(s ...unix.Signal) string { return fmt.Sprintf("%016x", signals(s...)) }
	for _, c := range []struct {
		what                                      string
		private, shared, blocked, ignored, caught string
		want                                      bool
	}{
		{"nothing", set(), set(), set(), set(), set(), false},
		{"killed", set(unix.SIGKILL), set(), set(), set(), set(), true},
		{"process killed", set(), set(unix.SIGKILL), set(), set(), set(), true},
		{"default", set(), set(unix.SIGTERM), set(), set(), set(), true},
		{"default, harmless", set(unix.SIGURG), set(unix.SIGCHLD, unix.SIGWINCH, unix.SIGCONT), set(), set(), set(), false},
		{"stopped", set(unix.SIGSTOP), set(unix.SIGTSTP), set(), set(), set(), false},
		{"blocked", set(), set(unix.SIGTERM), set(unix.SIGTERM), set(), set(), false},
		{"ignored", set(), set(unix.SIGHUP), set(), set(unix.SIGHUP), set(), false},
		{"alarm, default", set(), set(unix.SIGALRM), set(), set(), set(), true},
		{"alarm, caught", set(), set(unix.SIGALRM, unix.SIGURG, unix.SIGPROF, unix.SIGUSR1), set(), set(), set(unix.SIGALRM, unix.SIGURG, unix.SIGPROF, unix.SIGUSR1), false},
		{"interrupt, caught", set(), set(unix.SIGINT), set(), set(), set(unix.SIGINT), true},
		{"quit, caught, to the thread", set(unix.SIGQUIT), set(), set(), set(), set(unix.SIGQUIT), true},
		{"interrupt, caught, but blocked", set(), set(unix.SIGINT), set(unix.SIGINT), set(), set(unix.SIGINT), false},
	} {
		status := fmt.Sprintf("Name:\tx\nSigQ:\t0/1\nSigPnd:\t%s\nShdPnd:\t%s\nSigBlk:\t%s\nSigIgn:\t%s\nSigCgt:\t%s\nCapInh:\t0\n",
			c.private, c.shared, c.blocked, c.ignored, c.caught)
		if got := fatal([]byte(status)); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

func TestWritesBySyscallLine(t *testing.T) {
	line := func(nr int, second, third uint64) string {
		return fmt.Sprintf("%d 0xffffff9c 0x%x 0x%x 0x0 0x0 0x0 0x7ffc00001000 0x7f0000001000", nr, second, third)
	}
	for _, c := range []struct {
		call string
		want bool
	}{
		{"", false},
		{"running", false},
		{"-1 0x7ffc00001000 0x7f0000001000", false},
		{line(unix.SYS_OPENAT, 0, unix.O_RDONLY|unix.O_CLOEXEC), false},
		{line(unix.SYS_OPENAT, 0, unix.O_PATH|unix.O_RDWR), false},
		{line(unix.SYS_OPENAT, 0, unix.O_RDONLY|unix.O_CREAT), true},
		{line(unix.SYS_OPENAT, 0, unix.O_WRONLY), true},
		{line(unix.SYS_OPENAT, 0, unix.O_RDONLY|unix.O_TRUNC), true},
		{line(unix.SYS_MKDIRAT, 0, 0), true},
		{line(unix.SYS_RENAMEAT2, 0, 0), true},
		{line(unix.SYS_EXECVE, 0, 0), false},
		{line(unix.SYS_STATX, 0, 0), false},
		{line(unix.SYS_READLINKAT, 0, 0), false},
		// mkdirat of a 32-bit program has the number of something else.
		{strings.Replace(line(unix.SYS_MKDIRAT, 0, 0), "0x7ffc00001000", "0xffc01000", 1), false},
	} {
		if got := (caller{}).writes(c.call); got != c.want {
			t.Errorf("%q: %v", c.call, got)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		p, dir string
		want   bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false}, {"/a", "/", true}} {
		if got := below(c.p, c.dir); got != c.want {
			t.Errorf("%s below %s: %v", c.p, c.dir, got)
		}
	}
}

// A wait ends before the kernel's own limit, with ETIMEDOUT.
func TestLimit(t *testing.T) {
	for _, c := range []struct {
		byDefault, maximum int
		want               time.Duration
	}{
		{0, 0, 0},
		{60, 0, 57 * time.Second},
		{0, 60, 57 * time.Second},
		{120, 60, 57 * time.Second},
		{60, 120, 57 * time.Second},
		{1, 0, 12 * time.Second},
	} {
		if got := limitOf(c.byDefault, c.maximum); got != c.want {
			t.Errorf("limitOf(%d, %d) = %v, want %v", c.byDefault, c.maximum, got, c.want)
		}
	}
	r := &raw{realiser: never{}, limit: 10 * time.Millisecond, ctx: t.Context()}
	if err := r.wait(nil, Call{Name: "x"}, r.limit, nil); Errno(err) != syscall.ETIMEDOUT {
		t.Errorf("after the limit: %v", err)
	}
	r.calls.Wait()
}

// Who waited for a server that is gone does not wait as long again; and that somebody
// waits now is known to the next server.
func TestLimitAfterTakeOver(t *testing.T) {
	table := newNodes()
	keep(t, table)
	defer table.close()
	realise := func(unique uint64, realiser Realiser, limit time.Duration) (time.Duration, error) {
		r := &raw{
			store: oneEntry{Name: "x"}, realiser: realiser, relieve: func() {}, notes: newNotifier(), nodes: table,
			limit: limit, waited: time.Hour, ctx: t.Context(),
		}
		defer r.calls.Wait()
		q := new(request)
		q.set(make([]byte, requestHeader))
		q.header().Unique = unique
		begin := time.Now()
		err := r.realise(q, "x")
		return time.Since(begin), err
	}
	const limit = 50 * time.Millisecond
	if took, err := realise(2, never{}, limit); Errno(err) != syscall.ETIMEDOUT || took < limit {
		t.Errorf("a new one: %v after %v", err, took)
	}
	if _, err := realise(2|resent, never{}, time.Hour); Errno(err) != syscall.ETIMEDOUT {
		t.Errorf("one that has waited: %v", err)
	}
	w := &awaited{journal: table.journal}
	if _, err := realise(2, w, time.Hour); err != nil || w.before <= 0 || table.journal.waited() != 0 {
		t.Errorf("%v, somebody waits for %v meanwhile, and for %v at the end", err, w.before, table.journal.waited())
	}
}

// awaited notes how long somebody has waited when it is called.
type awaited struct {
	journal *journal
	before  time.Duration
}

func (w *awaited) Realise(context.Context, Call) error {
	w.before = w.journal.waited()
	return nil
}

// never realises nothing.
type never struct{}

func (never) Realise(ctx context.Context, _ Call) error {
	<-ctx.Done()
	return ctx.Err()
}

// deaf goes on until it is closed, whoever calls.
type deaf chan struct{}

func (d deaf) Realise(context.Context, Call) error {
	<-d
	return nil
}

func TestWaitEndsWithTheMount(t *testing.T) {
	d := make(deaf)
	for _, realiser := range []Realiser{never{}, d} {
		ctx, end := context.WithCancel(t.Context())
		r := &raw{realiser: realiser, ctx: ctx, notes: newNotifier()}
		time.AfterFunc(10*time.Millisecond, end)
		if err := r.wait(nil, Call{Name: "x"}, r.limit, nil); Errno(err) != syscall.ENODEV {
			t.Errorf("%T: %v", realiser, err)
		}
		if realiser == d {
			close(d)
		}
		r.calls.Wait()
	}
}

// An answer waits for what the kernel is to hear, but not for ever.
func TestHearIsBounded(t *testing.T) {
	d := make(deaf)
	close(d)
	r := &raw{realiser: d, ctx: t.Context(), notes: newNotifier()}
	r.notes.add(nil)
	begin := time.Now()
	if err := r.wait(nil, Call{Name: "x"}, 0, nil); err != nil || time.Since(begin) < hearTime {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

// The paths of deep nodes are longer than one system call takes.
func TestOpenBeneathDeep(t *testing.T) {
	b, err := openBacking(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	dir, err := unix.Openat(b.real, ".", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	var path []string
	for range 60 {
		name := strings.Repeat("d", 200)
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(dir, name, unix.O_PATH, 0)
		unix.Close(dir)
		if err != nil {
			t.Fatal(err)
		}
		dir, path = next, append(path, name)
	}
	fd, err := openBeneath(b.real, path, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	var want, got unix.Stat_t
	if err := errors.Join(unix.Fstat(dir, &want), unix.Fstat(fd, &got)); err != nil || got.Ino != want.Ino {
		t.Errorf("inode %d, want %d, %v", got.Ino, want.Ino, err)
	}
	unix.Close(fd)
	// No link is followed, at the end or on the way, and nothing leads out.
	if err := errors.Join(unix.Symlinkat("/etc", dir, "out"), unix.Symlinkat("..", dir, "up")); err != nil {
		t.Fatal(err)
	}
	unix.Close(dir)
	for _, bad := range [][]string{{"out"}, {"out", "passwd"}, {"up"}, {"up", "up"}} {
		if fd, err := openBeneath(b.real, append(slices.Clone(path), bad...), unix.O_RDONLY); err != unix.ELOOP {
			t.Errorf("%v: %d, %v", bad, fd, err)
		}
	}
	if fd, err := openBeneath(b.real, []string{".."}, unix.O_RDONLY); err != unix.EXDEV {
		t.Errorf("..: %d, %v", fd, err)
	}
}

// Open descriptors are bounded, and close only when nobody uses them.
func TestDescriptorsAreBounded(t *testing.T) {
	dir := t.TempDir()
	b, err := openBacking(dir)
	if err != nil {
		t.Fatal(err)
	}
	table := newNodes()
	node := func(i int) *node {
		name := fmt.Sprint("f", i)
		fd, err := unix.Openat(mustOpen(t, dir), name, unix.O_CREAT|unix.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		return table.child(table.root, name, kindObject)
	}
	first := node(0)
	held, err := b.acquire(first)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxOpen + 10 {
		f, err := b.acquire(node(i + 1))
		if err != nil {
			t.Fatal(err)
		}
		b.release(f)
	}
	if n := len(b.open); n != maxOpen || b.lru.Len() != n {
		t.Errorf("%d open", n)
	}
	// Its number may be another file's by now.
	want, err := statAt(b.real, first.name)
	if err != nil {
		t.Fatal(err)
	}
	var got unix.Stat_t
	if err := unix.Fstat(held.fd, &got); err != nil || got.Ino != want.Ino {
		t.Errorf("what is in use was closed: inode %d, want %d, %v", got.Ino, want.Ino, err)
	}
	b.release(held)
	if _, err := unix.FcntlInt(uintptr(held.fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("what is not in use stayed open: %v", err)
	}
	b.close()
}

func mustOpen(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// Node ids are not used again, and forgetting frees.
func TestNodes(t *testing.T) {
	table := newNodes()
	seen := map[uint64]bool{table.root.id: true}
	for range 3 {
		n := table.object("x", unix.S_IFDIR)
		if n != table.object("x", unix.S_IFDIR) {
			t.Error("another node for the same name")
		}
		inner := table.child(n, "y", kindObject)
		for _, m := range []*node{n, inner} {
			if seen[m.id] {
				t.Errorf("id %d again", m.id)
			}
			seen[m.id] = true
		}
		if forgotten(table, n) || !forgotten(table, n) {
			t.Error("forgotten at the wrong time")
		}
		// The kernel may forget a directory before what is in it.
		if got := inner.path(); !slices.Equal(got, []string{"x", "y"}) {
			t.Errorf("path %q", got)
		}
		if !forgotten(table, inner) {
			t.Error("not forgotten")
		}
	}
	if table.size() != 1 || len(table.children) != 0 {
		t.Errorf("%d nodes, %d children left", table.size(), len(table.children))
	}
	if freed, _ := table.forget(table.root.id, 100); freed || table.get(table.root.id) == nil {
		t.Error("the root was forgotten")
	}
	// A promise is one node, and becomes the object.
	p, _ := table.promise("z", unix.S_IFDIR)
	if q, _ := table.promise("z", unix.S_IFDIR); q != p || table.object("z", unix.S_IFDIR) != p || p.pending.Load() {
		t.Error("the promise did not become the object")
	}
	if q, valid := table.promise("z", unix.S_IFDIR); q != nil || valid != p || p.gone.Load() {
		t.Error("a valid object became a promise")
	}
	inner := table.child(p, "y", kindObject)
	if !slices.Equal(table.unname("z", false), []*node{p}) || !inner.stale() {
		t.Error("a deleted object is not gone")
	}
	q, _ := table.promise("z", unix.S_IFDIR)
	if q == p || !q.pending.Load() || q.stale() || table.object("z", unix.S_IFREG) == q {
		t.Error("a deleted object, or a broken promise, goes on")
	}
	if table.settled(q) {
		t.Error("a broken promise is kept")
	}
	o := table.object("z", unix.S_IFREG)
	if table.replace(q); o.gone.Load() {
		t.Error("what has the name of a broken promise is gone")
	}
	d, _ := table.promise("w", unix.S_IFDIR)
	if f, _ := table.promise("w", unix.S_IFREG); f == d || f.promised != unix.S_IFREG || !d.stale() {
		t.Error("what is promised otherwise goes on")
	}
}

// What has taken the place of a damaged object answers for it as long as it is there.
func TestReplacedNodes(t *testing.T) {
	table := newNodes()
	old := table.object("x", unix.S_IFDIR)
	inner := table.child(old, "y", kindObject)
	if !slices.Equal(table.unname("x", true), []*node{old}) || !old.gone.Load() || inner.stale() {
		t.Error("one that was replaced by its like is stale, or not gone")
	}
	second := table.object("x", unix.S_IFDIR)
	if second == old {
		t.Error("it is found still")
	}
	gone := table.unname("x", true)
	if !slices.Equal(gone, []*node{old, second}) || inner.stale() || second.stale() {
		t.Error("replaced twice, one of them is stale")
	}
	// The kernel may forget the object before what is in it.
	forgotten(table, old)
	table.unname("x", false)
	if !inner.stale() || !second.stale() {
		t.Error("others have their place, and they are not stale")
	}
	third := table.object("x", unix.S_IFDIR)
	table.unname("x", true)
	if !inner.stale() || !second.stale() {
		t.Error("those others were replaced by their like, and what was there before is not stale")
	}
	fourth := table.object("x", unix.S_IFDIR)
	gone = table.unname("x", true)
	for _, n := range []*node{third, fourth, inner, second} {
		if !forgotten(table, n) {
			t.Error("not forgotten")
		}
	}
	if !slices.Equal(gone, []*node{third, fourth}) {
		t.Errorf("who tells the kernel of them has %v", gone)
	}
	if len(table.replaced) != 0 || table.size() != 1 {
		t.Errorf("%d names, %d nodes left", len(table.replaced), table.size())
	}
}

// What was opened before an object was replaced is not kept afterwards.
func TestBackingIsRenewed(t *testing.T) {
	dir := t.TempDir()
	b, err := openBacking(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	table := newNodes()
	n := table.object("x", unix.S_IFDIR)
	made := func() {
		t.Helper()
		if err := os.Mkdir(dir+"/x", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	made()
	era := b.era
	fd, err := b.reach(n, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/x", dir+"/old"); err != nil {
		t.Fatal(err)
	}
	made()
	table.unname("x", true)
	b.renew(table.below([]*node{n}))
	if f := b.keep(n, fd, era); f != nil {
		t.Error("the old one is kept")
	}
	f, err := b.acquire(n)
	if err != nil {
		t.Fatal(err)
	}
	defer b.release(f)
	if !b.still(n, f) {
		t.Error("it is the old one")
	}
	if again := b.keep(n, -1, b.era); again != f {
		t.Error("there are two")
	}
	b.release(f)
}

// oneEntry is a store that says the same of each name.
type oneEntry Entry

func (e oneEntry) Lookup(string) (Entry, error)      { return Entry(e), nil }
func (e oneEntry) List(string, int) ([]Entry, error) { return nil, nil }

// A lookup that was told that its object is not valid, and is late: that became
// valid, or was deleted, and this server will hear of it.
func TestLatePromise(t *testing.T) {
	b, err := openBacking(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := unix.Mkdirat(mustOpen(t, fmt.Sprintf("/proc/self/fd/%d", b.real)), "x", 0o755); err != nil {
		t.Fatal(err)
	}
	r := &raw{nodes: newNodes(), backing: b}
	n := r.nodes.object("x", unix.S_IFDIR)
	var out fuse.EntryOut
	r.store = oneEntry{Name: "x", Valid: true}
	if st := r.promise(nil, "x", unix.S_IFDIR|0o555, &out); !st.Ok() || out.NodeId != n.id || n.stale() {
		t.Errorf("it became valid: %v, node %d, want %d, gone: %v", st, out.NodeId, n.id, n.stale())
	}
	r.store = oneEntry{Name: "x"}
	if st := r.promise(nil, "x", unix.S_IFDIR|0o555, &out); !st.Ok() || out.NodeId == n.id || !n.stale() {
		t.Errorf("it was deleted: %v, node %d, gone: %v", st, out.NodeId, n.stale())
	}
	if slices.Contains(r.nodes.unname("x", false), n) {
		t.Error("what is gone has its name")
	}
}

func forgotten(table *nodes, n *node) bool {
	freed, _ := table.forget(n.id, 1)
	return freed
}

// What the kernel remembers costs little, and what it forgets nothing.
func TestNodesGiveMemoryBack(t *testing.T) {
	const count, most = 100_000, 300 // bytes a node
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	table := newNodes()
	dir := table.child(table.root, "dir", kindObject)
	for i := range count {
		table.child(dir, fmt.Sprintf("%032d-a-name-%06d", i, i), kindObject)
	}
	if each := (inUse() - before) / count; each > most {
		t.Errorf("%d bytes a node", each)
	}
	shrunk := false
	for id := dir.id; id <= dir.id+count; id++ {
		if n := table.get(id); n != dir {
			_, s := table.forget(id, 1)
			shrunk = shrunk || s
		}
	}
	if left := inUse() - before; !shrunk || left > 1<<20 {
		t.Errorf("%d bytes left, shrunk: %v", left, shrunk)
	}
	if table.size() != 2 || table.child(table.root, "dir", kindObject) != dir {
		t.Error("what is left was lost")
	}
}
