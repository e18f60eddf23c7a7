package fs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// keep gives t a journal, of a mount that does not exist.
func keep(t testing.TB, table *nodes) *os.File {
	t.Helper()
	j, err := newJournal(mounted{dir: "/nowhere", major: 7, minor: 9}, &device{init: []byte("init"), reply: []byte("reply")}, true)
	if err != nil {
		t.Fatal(err)
	}
	table.journal = j
	return j.file
}

// again is what the next server makes of a table whose server was killed: from
// the file alone.
func again(t testing.TB, table *nodes) (*nodes, error) {
	t.Helper()
	next, err := restoreNodes(duplicate(t, table.journal.file))
	table.close()
	return next, err
}

func duplicate(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// known is everything of a table that the kernel relies on.
func known(table *nodes) []string {
	var lines []string
	for id, n := range table.byID {
		if n == table.root {
			continue
		}
		promised := uint32(0)
		if n.pending.Load() {
			promised = n.promised
		}
		backing := int32(0)
		if n.slot != 0 {
			backing = table.journal.slot(n.slot).backing
		}
		lines = append(lines, fmt.Sprintf("%d %q kind %d lookups %d pending %v promised %o gone %v backing %d",
			id, n.path(), n.kind, n.lookups, n.pending.Load(), promised, n.gone.Load(), backing))
	}
	for key, n := range table.children {
		lines = append(lines, fmt.Sprintf("%d/%q is %d", key.parent, key.name, n.id))
	}
	slices.Sort(lines)
	return lines
}

// Whatever the kernel was told, in any order, a killed server's successor knows
// it; and the successor's successor.
func TestJournalKeepsNodes(t *testing.T) {
	names := []string{
		"a", "twenty-eight-bytes-of-a-name", "twenty-nine-bytes-of-a-name--",
		strings.Repeat("n", 28+52), strings.Repeat("m", 28+52+1), strings.Repeat("l", 255),
	}
	rapid.Check(t, func(rt *rapid.T) {
		table := newNodes()
		keep(t, table)
		defer func() { table.close() }()
		name := rapid.SampledFrom(names)
		format := rapid.SampledFrom([]uint32{unix.S_IFDIR, unix.S_IFREG})
		pick := func(rt *rapid.T, want func(*node) bool) *node {
			ids := slices.Sorted(maps.Keys(table.byID))
			ids = slices.DeleteFunc(ids, func(id uint64) bool { return !want(table.byID[id]) })
			if len(ids) == 0 {
				rt.Skip("there is none")
			}
			return table.byID[rapid.SampledFrom(ids).Draw(rt, "node")]
		}
		inner := func(n *node) bool { return n != table.root }
		objects := func(n *node) bool { return n.kind == kindObject && !n.pending.Load() }
		rt.Repeat(map[string]func(*rapid.T){
			"lookup inside": func(rt *rapid.T) { table.child(pick(rt, objects), name.Draw(rt, "name"), kindObject) },
			"object":        func(rt *rapid.T) { table.object(name.Draw(rt, "name"), format.Draw(rt, "format")) },
			"promise":       func(rt *rapid.T) { table.promise(name.Draw(rt, "name"), format.Draw(rt, "format")) },
			"link":          func(rt *rapid.T) { table.single(table.root, name.Draw(rt, "name"), kindLink, "") },
			"control": func(rt *rapid.T) {
				table.single(table.child(table.root, controlName, kindControlDir), controlStatus, kindControlFile, "")
			},
			"delete": func(rt *rapid.T) { table.unname(name.Draw(rt, "name"), rapid.Bool().Draw(rt, "same")) },
			"settle": func(rt *rapid.T) { table.settled(pick(rt, func(n *node) bool { return n.pending.Load() })) },
			"backing": func(rt *rapid.T) {
				table.keepBacking(pick(rt, inner).id, rapid.Int32Range(0, 9).Draw(rt, "backing"))
			},
			"forget": func(rt *rapid.T) {
				n := pick(rt, inner)
				table.forget(n.id, rapid.Uint64Range(1, n.lookups).Draw(rt, "lookups"))
			},
			"die": func(rt *rapid.T) {
				before := known(table)
				last, steps := table.last, used(table.journal)
				next, err := again(t, table)
				if err != nil {
					rt.Fatal(err)
				}
				table = next
				if after := known(table); !slices.Equal(before, after) {
					rt.Fatalf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
				}
				if table.last < last {
					rt.Fatalf("the last id was %d, is %d", last, table.last)
				}
				if got := used(table.journal); got != steps {
					rt.Fatalf("%d slots were in use, and are %d", steps, got)
				}
			},
		})
		for _, n := range slices.Collect(maps.Values(table.byID)) {
			table.forget(n.id, n.lookups)
		}
		if got := used(table.journal); got > 1 {
			rt.Fatalf("%d slots are in use by nothing", got-1)
		}
	})
}

// used is how many slots are, that which stands for none among them.
func used(j *journal) int {
	n := 0
	for _, st := range j.steps {
		n += st.used
	}
	return n
}

// What is forgotten gives its memory back, and is used again.
func TestJournalGivesMemoryBack(t *testing.T) {
	table := newNodes()
	file := keep(t, table)
	defer func() { table.close() }()
	size := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	const count = 5 * stepSlots
	fill := func() {
		for i := range count {
			table.child(table.root, fmt.Sprint("name-", i), kindObject)
		}
	}
	empty := size()
	fill()
	full := size()
	if full-empty < count*slotSize || full-empty > (count+2*stepSlots)*slotSize {
		t.Errorf("%d nodes take %d bytes", count, full-empty)
	}
	forget := func() {
		for id := range table.last {
			table.forget(id+1, 1)
		}
	}
	forget()
	fill()
	if again := size(); again != full {
		t.Errorf("%d nodes take %d bytes at first, and then %d", count, full, again)
	}
	forget()
	// The first step stays.
	if left := size() - empty; left > stepSize {
		t.Errorf("%d bytes left", left)
	}
	next, err := again(t, table)
	if err != nil {
		t.Fatal(err)
	}
	table, file = next, next.journal.file
	fill()
	if again := size(); again != full {
		t.Errorf("%d nodes take %d bytes after those before took %d", count, again, full)
	}
	forget()
}

// The journal of a server that was killed while it wrote.
func TestJournalOfUnfinishedWork(t *testing.T) {
	table := newNodes()
	keep(t, table)
	long := strings.Repeat("long", 50)
	dir := table.object("dir", unix.S_IFDIR)
	// A node that no answer told the kernel of, one whose slots were written
	// only in part, and one whose children outlive it.
	unsaid := table.add(dir, "unsaid", kindObject)
	half := table.child(dir, long, kindObject)
	table.journal.slot(half.slot).id = 0
	table.child(dir, "inner", kindObject)
	table.journal.slot(dir.slot).lookups = 0
	next, err := again(t, table)
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	if next.get(unsaid.id) != nil || next.get(half.id) != nil || next.get(dir.id) != nil {
		t.Error("what the kernel does not know is there")
	}
	if len(next.byID) != 2 || len(next.children) != 1 {
		t.Errorf("%q", known(next))
	}
	if got := used(next.journal); got != 3 { // none, dir, inner
		t.Errorf("%d slots are in use", got)
	}
	end := next.journal.steps[0].next
	if n := next.object("dir", unix.S_IFDIR); n.id <= half.id {
		t.Error("a node id is used again")
	}
	if next.object("other", unix.S_IFDIR); next.journal.steps[0].next != end {
		t.Error("what is free is not used again")
	}
}

// A file that the kernel knows in two sizes, the old one being open still, is the newer
// one for who looks it up.
func TestJournalOfReplacedFile(t *testing.T) {
	table := newNodes()
	keep(t, table)
	dir := table.object("dir", unix.S_IFDIR)
	old := table.inner(dir, "file", &unix.Stat_t{Mode: unix.S_IFREG, Size: 4})
	table.unname("dir", true)
	want := table.inner(dir, "file", &unix.Stat_t{Mode: unix.S_IFREG, Size: 5})
	whole := &unix.Stat_t{Mode: unix.S_IFREG, Size: 6}
	known := table.inner(table.object("dir", unix.S_IFDIR), "file", whole)
	next, err := again(t, table)
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	if n := next.child(next.get(dir.id), "file", kindObject); want == old || n.id != want.id || next.get(old.id) == nil {
		t.Errorf("node %d is found, want %d", n.id, want.id)
	}
	if n := next.inner(next.get(known.parent.id), "file", whole); n.id != known.id {
		t.Errorf("node %d is found, want %d", n.id, known.id)
	}
}

// Signals, which interrupt the kernel while it looks for memory, lose nothing: Linux 6.1
// answers EINTR at once, 6.18 does not.
func TestJournalBesideSignals(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, end, ended := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // as Go's runtime does
			}
		}
	}()
	defer func() { close(end); <-ended }()
	table := newNodes()
	keep(t, table)
	defer table.journal.close()
	for k := range 50 {
		if err := table.journal.commit(k); err != nil {
			t.Fatal(err)
		}
	}
}

// Memory that no server wrote is refused, or taken for nodes that can be used;
// nothing worse happens.
func TestJournalDamaged(t *testing.T) {
	const count = 50
	fresh := func() *journal {
		table := newNodes()
		keep(t, table)
		dir := table.object("dir", unix.S_IFDIR)
		for i := range count {
			table.child(dir, strings.Repeat("long", 1+i)+fmt.Sprint(i), kindObject)
		}
		return table.journal
	}
	restore := func(j *journal) (*nodes, error) {
		defer j.close()
		return restoreNodes(duplicate(t, j.file))
	}
	for _, c := range []struct {
		what  string
		spoil func(j *journal)
		want  string
	}{
		{"another layout", func(j *journal) { j.header().magic++ }, "it is another version's, or damaged"},
		{"a node that found no memory", func(j *journal) { j.header().lost = 1 }, "it is not complete, for lack of memory"},
		{"an unknown parent", func(j *journal) { j.slot(2).parent = 999 }, "it is damaged"},
		{"a node above itself", func(j *journal) { j.slot(1).parent = j.slot(2).id }, "it is damaged"},
		{"one id twice", func(j *journal) { j.slot(2).id = j.slot(1).id }, "it is damaged"},
		{"the root", func(j *journal) { j.slot(2).id = 1 }, "it is damaged"},
		{"no kind", func(j *journal) { j.slot(2).kind = 99 }, "it is damaged"},
		{"a root's kind", func(j *journal) { j.slot(2).kind = kindRoot }, "it is damaged"},
		{"a name without end", func(j *journal) {
			i := longest(j)
			j.slot(i).more = i
		}, "it is damaged"},
		{"a name that goes on nowhere", func(j *journal) { j.slot(longest(j)).more = 1 << 30 }, "it is damaged"},
		{"a name without its rest", func(j *journal) { j.slot(longest(j)).more = 0 }, "it is damaged"},
		{"no name", func(j *journal) { j.slot(1).length = 0 }, "it is damaged"},
	} {
		j := fresh()
		c.spoil(j)
		if _, err := restore(j); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.what, err, c.want)
		}
	}
	short, err := unix.MemfdCreate("short", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restoreNodes(os.NewFile(uintptr(short), "short")); err == nil || err.Error() != "it is damaged" {
		t.Errorf("nothing at all: %v", err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 300 {
		j := fresh()
		for range 1 + random.IntN(8) {
			j.mem[headerSize+random.IntN(count*4*slotSize)] = byte(random.Uint32())
		}
		table, err := restore(j)
		if err != nil {
			refused++
			continue
		}
		for _, n := range slices.Collect(maps.Values(table.byID)) {
			n.path()
			table.forget(n.id, n.lookups)
		}
		table.close()
	}
	if refused == 0 || refused == 300 {
		t.Errorf("%d of 300 refused", refused)
	}
}

// longest is a slot of a node whose name does not fit into it.
func longest(j *journal) uint32 {
	for i := uint32(1); ; i++ {
		if s := j.slot(i); s.id != 0 && s.id != restID && s.length > 28 {
			return i
		}
	}
}

// Without memory the server goes on, and no other one takes over.
func TestJournalWithoutMemory(t *testing.T) {
	for _, name := range []string{"one-too-many", "one-that-goes-on-in-another-slot"} {
		t.Run(name, func(t *testing.T) { testWithoutMemory(t, name) })
	}
}

func testWithoutMemory(t *testing.T, name string) {
	table := newNodes()
	keep(t, table)
	defer table.close()
	for i := range stepSlots - 2 {
		table.child(table.root, fmt.Sprint(i), kindObject)
	}
	held := duplicate(t, table.journal.file)
	defer held.Close()
	none, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	table.journal.file.Close()
	table.journal.file = none
	n := table.object(name, unix.S_IFDIR)
	more := table.object("another", unix.S_IFDIR)
	for _, m := range []*node{n, more} {
		if table.get(m.id) != m {
			t.Error("not a node")
		}
		table.settled(m)
		table.keepBacking(m.id, 3)
	}
	if !forgotten(table, n) || !forgotten(table, more) || !forgotten(table, table.get(2)) {
		t.Error("not forgotten")
	}
	if table.journal.lost == nil || (&Server{connection: &connection{nodes: table}}).Held() != nil {
		t.Error("it does not say what it lacks, or is to be held")
	}
	if _, err := restoreNodes(duplicate(t, held)); err == nil || err.Error() != "it is not complete, for lack of memory" {
		t.Errorf("%v", err)
	}
}

// What a server is told about a mount is what the one before knew of it.
func TestJournalHeader(t *testing.T) {
	table := newNodes()
	file := keep(t, table)
	defer table.close()
	h, err := (&Held{Journal: file}).read()
	if err != nil {
		t.Fatal(err)
	}
	m := h.mounted()
	if m.dir != "/nowhere" || m.major != 7 || m.minor != 9 || m.id != 0 || h.direct == 0 || string(text(h.init[:])) != "init" || string(text(h.reply[:])) != "reply" {
		t.Errorf("%+v %+v", m, h)
	}
	// How long somebody has waited is known, too.
	j := table.journal
	j.waiting(1)
	since := j.header().since
	if since == 0 || j.waited() <= 0 {
		t.Error("nobody waits")
	}
	next, err := restoreNodes(duplicate(t, file))
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	next.journal.waiting(1)
	if next.journal.header().since != since {
		t.Error("who waits began again")
	}
	next.journal.waiting(-1)
	if next.journal.waited() != 0 {
		t.Error("somebody waits still")
	}
	if _, err := newJournal(mounted{dir: strings.Repeat("/long", 1000)}, &device{}, true); err == nil {
		t.Error("a path that does not fit was taken")
	}
}
