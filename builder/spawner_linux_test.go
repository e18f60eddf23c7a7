package builder

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"storefs/store"
	"storefs/storeexpr"
	"storefs/sysmon"
)

func TestProgram(t *testing.T) {
	p := newProgram(4)
	defer p.free()
	dir := t.TempDir()
	p.call("make a", unix.SYS_MKDIRAT, atFDCWD, p.text(dir+"/a"), 0o755)
	p.call("make a again", unix.SYS_MKDIRAT, atFDCWD, p.text(dir+"/a"), 0o755).unless(unix.EEXIST)
	p.call("make c", unix.SYS_MKDIRAT, atFDCWD, p.text(dir+"/b/c"), 0o755)
	p.call("make d", unix.SYS_MKDIRAT, atFDCWD, p.text(dir+"/d"), 0o755)
	if err := p.run(); fmt.Sprint(err) != "make c: no such file or directory" {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(dir + "/a"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/d"); err == nil {
		t.Error("it went on after a failure")
	}
}

// A process that shares our memory makes calls, passes results on, tells what
// failed, and leaves us unharmed.
func TestProgramInAnotherProcess(t *testing.T) {
	if !canClone {
		t.Skip("not for this architecture")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text string
		want string // error
	}{
		{"changed", ""},
		{"", "write nothing: it returned 0"},
	} {
		p := newProgram(8)
		open := p.call("open", unix.SYS_OPENAT, atFDCWD, p.text(file), unix.O_RDWR, 0)
		p.pass(open, 1, 0)
		p.call("write nothing", unix.SYS_WRITE, 0, p.text(c.text), uintptr(len(c.text))).least = 1
		big := p.bytes(3 * pieceSize)
		p.call("ask the time", unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, address(big[2*pieceSize:]))
		p.call("end", unix.SYS_EXIT_GROUP, 7)
		pid, end, err := p.start(0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(end)
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			t.Fatal(err)
		}
		_, err = p.failed()
		if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
			t.Errorf("error %v, want %q", err, c.want)
		}
		if c.want == "" && (status.ExitStatus() != 7 || bytes.Count(big, []byte{0}) == len(big)) {
			t.Errorf("status %d", status.ExitStatus())
		}
		p.free()
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "changed789" {
		t.Errorf("%q %v", text, err)
	}
}

func TestNamespaceErrno(t *testing.T) {
	p := newProgram(2)
	defer p.free()
	p.call("make a namespace", unix.SYS_UNSHARE)
	p.call("write", unix.SYS_WRITE)
	if errno := namespaceErrno(unix.SYS_OPEN_TREE, unix.ENOSPC); errno != unix.EUSERS {
		t.Errorf("a mount: %v", errno)
	}
	if err := p.check(0, -int(unix.ENOSPC)); errnoOf(err) != unix.EUSERS {
		t.Errorf("error %v", err)
	}
	if err := p.check(1, -int(unix.ENOSPC)); errnoOf(err) != unix.ENOSPC {
		t.Errorf("error %v", err)
	}
}

func TestFrames(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range pair {
		if conns[i], err = unixConn(fd); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	var files []*os.File
	for i := range 20 {
		f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	sent := make(chan error, 1)
	go func() {
		defer close(sent)
		for i, f := range files {
			for _, f := range []frame{
				{kind: frameKill, id: uint64(i), fd: -1},
				{kind: frameBuild, id: uint64(i), body: bytes.Repeat([]byte{byte(i)}, i*i*i*100), fd: int(f.Fd())},
				{kind: frameForget, id: uint64(i), body: []byte("x"), fd: -1},
			} {
				if err := f.send(conns[0]); err != nil {
					sent <- err
				}
			}
		}
	}()
	r := newFrameReader(conns[1])
	for i, file := range files {
		for j, kind := range []byte{frameKill, frameBuild, frameForget} {
			f, err := r.next()
			if err != nil {
				t.Fatal(err)
			}
			size := []int{0, i * i * i * 100, 1}[j]
			if f.kind != kind || f.id != uint64(i) || len(f.body) != size || bytes.Count(f.body, []byte{byte(i)}) != size && j == 1 {
				t.Fatalf("frame %d of %d: %c %d, %d bytes", j, i, f.kind, f.id, len(f.body))
			}
			if j != 1 {
				continue
			}
			var got, want unix.Stat_t
			if err := unix.Fstat(f.fd, &got); err != nil {
				t.Fatal(err)
			}
			unix.Close(f.fd)
			if err := unix.Fstat(int(file.Fd()), &want); err != nil || got.Ino != want.Ino {
				t.Fatalf("frame of %d: another file (%v)", i, err)
			}
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	conns[0].Close()
	if _, err := r.next(); err == nil {
		t.Error("a frame after the end")
	}
}

// A descriptor that is lost is missed by the frame that it came with, and by no other.
func TestFrameWithoutDescriptor(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := unixConn(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer unix.Close(pair[1])
	for i := range 6 {
		kind, fd := byte(frameKill), -1
		if i%2 == 1 {
			kind, fd = frameBuild, 0
		}
		if err := (frame{kind: kind, id: uint64(i), body: []byte("body"), fd: fd}).send(conn); err != nil {
			t.Fatal(err)
		}
	}
	r := newFrameReader(&losing{ownerConn: ownerConn(pair[1]), lost: 2})
	for i := range 6 {
		f, err := r.next()
		if err != nil || f.id != uint64(i) || string(f.body) != "body" {
			t.Fatalf("frame %d: %c %d %q %v", i, f.kind, f.id, f.body, err)
		}
		if has := f.fd >= 0; has != (i == 1 || i == 5) {
			t.Errorf("frame %d: descriptor %d", i, f.fd)
		}
		if f.fd >= 0 {
			unix.Close(f.fd)
		}
	}
}

// losing loses a descriptor, as the kernel does where there may be none more.
type losing struct {
	ownerConn
	lost int // which one of them
}

func (c *losing) ReadMsgUnix(b, oob []byte) (n, oobn, flags int, from *net.UnixAddr, err error) {
	n, oobn, flags, from, err = c.ownerConn.ReadMsgUnix(b, oob)
	if oobn > 0 {
		if c.lost--; c.lost == 0 {
			fds, err := rights(oob[:oobn])
			for _, fd := range fds {
				unix.Close(fd)
			}
			return n, 0, flags | unix.MSG_CTRUNC, from, err
		}
	}
	return n, oobn, flags, from, err
}

// A sandbox of which not all descriptors came is none.
func TestSomeDescriptorsAreLost(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		defer unix.Close(fd)
	}
	// There is no room for so many.
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(make([]int, 2*maxOpenings)...), nil, 0); err != nil {
		t.Fatal(err)
	}
	if fds, err := receiveFDs(pair[1]); errnoOf(err) != unix.EMFILE {
		t.Errorf("received %v %v", fds, err)
	}
}

func TestLaunchText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.String(), 0, 5)
		l := &launch{
			scratch: rapid.String().Draw(t, "scratch"), number: rapid.Uint64().Draw(t, "number"), stubs: rapid.Uint64().Draw(t, "stubs"),
			inputs: list.Draw(t, "inputs"), personality: uintptr(rapid.Uint32().Draw(t, "personality")),
			builder: rapid.String().Draw(t, "builder"), args: list.Draw(t, "args"), env: list.Draw(t, "env"),
		}
		text := l.append(nil)
		got, err := parseLaunch(text)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", l) {
			t.Fatalf("%+v %v, want %+v", got, err, l)
		}
		if _, err := parseLaunch(text[:rapid.IntRange(0, len(text)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("cut, and no error")
		}
	})
}

// Whatever sets follow one another, the store directory has exactly the stubs of
// the last one, and an empty scratch directory is known from another, also where the
// number of names is in the size of a directory, as in tmpfs.
func TestFit(t *testing.T) {
	t.Run("directory of temporary files", func(t *testing.T) { testFit(t, t.TempDir()) })
	t.Run("tmpfs", func(t *testing.T) {
		top, err := os.MkdirTemp("/dev/shm", "storefs-test-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(top)
		testFit(t, top)
	})
}

func testFit(t *testing.T, top string) {
	ids, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(top, "real")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	path := func(i int) store.Path {
		p, err := store.MakePath("/nix/store", "test", store.HashOf(store.SHA256, fmt.Append(nil, i)), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	kinds := []store.Kind{store.KindDirectory, store.KindRegular, store.KindExecutable, store.KindSymlink}
	for i := range 12 {
		if kinds[i%4] == store.KindSymlink {
			if err := os.Symlink(fmt.Sprint(i), filepath.Join(real, path(i).Base())); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := newScratch(top, "scratch", ids)
	if err != nil {
		t.Fatal(err)
	}
	number := uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		var inputs []store.Info
		var want []string
		for _, i := range rapid.SliceOfDistinct(rapid.IntRange(0, 11), rapid.ID[int]).Draw(t, "inputs") {
			inputs = append(inputs, store.Info{Path: path(i), Kind: kinds[i%4]})
			want = append(want, fmt.Sprintf("%s %c", path(i).Base(), inputLetter(kinds[i%4])))
		}
		number++
		if err := s.fit(inputs, keyOf(inputs, 0), number, real); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(s.path("store"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			letter := map[os.FileMode]byte{os.ModeDir: letterDirectory, os.ModeSymlink: letterSymlink, 0: letterFile}[e.Type()]
			got = append(got, fmt.Sprintf("%s %c", e.Name(), letter))
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		stubs := maps.Clone(s.stubs)
		if len(stubs) > 0 && rapid.Bool().Draw(t, "spoil") {
			for name := range stubs {
				if err := os.Rename(s.path("store", name), s.path("store", "x")); err != nil {
					t.Fatal(err)
				}
				if fresh, _ := s.empty(); fresh {
					t.Fatal("a stub is missing, and it is as new")
				}
				delete(s.stubs, name)
				break
			}
			s.inputs = inputsKey{} // nobody would use it again
			return
		}
		if fresh, err := s.empty(); err != nil || !fresh {
			t.Fatalf("%t %v", fresh, err)
		}
		if !reflect.DeepEqual(s.stubs, stubs) {
			t.Fatalf("stubs %v, want %v", s.stubs, stubs)
		}
	})
}

func TestTreesAreBounded(t *testing.T) {
	trees := inputTrees{trees: make(map[uint64]*inputTree)}
	for i := range uint64(10) {
		trees.trees[i+1] = &inputTree{mounts: maxTreeMounts / 5, used: 100 - i, busy: i == 9}
		trees.mounts += maxTreeMounts / 5
	}
	trees.bound()
	if got := slices.Sorted(maps.Keys(trees.trees)); !slices.Equal(got, []uint64{1, 2, 3, 4, 10}) || trees.mounts != maxTreeMounts {
		t.Errorf("left: %v with %d mounts", got, trees.mounts)
	}
}

// A tree that the next build has taken is not dropped because the one before has
// ended, however many there are: that build may wait for what is made in it.
func TestTreeInUseStays(t *testing.T) {
	trees := inputTrees{trees: make(map[uint64]*inputTree)}
	l := &launch{number: 1, stubs: 1}
	if trees.take(l) != nil {
		t.Fatal("a tree for the first build")
	}
	first := trees.take(l)
	if first == nil || !trees.grow(first, 5) || !trees.grow(first, 5) || trees.grow(first, 5) {
		t.Fatalf("%+v", first)
	}
	trees.leave(first)
	if trees.take(l) != first {
		t.Fatal("it is another tree")
	}
	for i := range uint64(maxSpaces) {
		l := &launch{number: 2 + i, stubs: 1}
		trees.take(l)
		if tree := trees.take(l); !trees.grow(tree, 5) || !trees.wanted(tree) || !trees.wanted(first) {
			t.Fatalf("%d: %+v %+v", i, tree, first)
		}
	}
	trees.leave(first)
	if trees.wanted(first) || trees.spaces != maxSpaces || trees.mounts != 5*maxSpaces {
		t.Errorf("%d namespaces, %d mounts, %+v", trees.spaces, trees.mounts, first)
	}
}

// Where no spawner can be, none is, and nothing else is different.
func TestWithoutSpawner(t *testing.T) {
	dir := t.TempDir()
	l, err := New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.spawner.get() == nil && canClone {
		t.Error("no spawner")
	}
	l.Close()
	var said []string
	l, err = New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir, Say: func(line string) { said = append(said, line) }})
	if err != nil {
		t.Fatal(err)
	}
	l.spawner.config.Real = dir + "/absent"
	for range 2 {
		if l.spawner.get() != nil {
			t.Fatal("there is a spawner")
		}
	}
	if len(said) != 1 || canClone && !strings.Contains(said[0], "absent: no such file") {
		t.Errorf("it said %q", said)
	}
}

// A sandbox that dies while it still has the spawner's descriptors, its own end of its
// socket among them, is not waited for.
func TestSandboxDiesOnItsWay(t *testing.T) {
	if !canClone {
		t.Skip("there is no spawner for this architecture")
	}
	dir := t.TempDir()
	var said []string
	l, err := New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir, Say: func(line string) { said = append(said, line) }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Its file systems are to belong to somebody whom it does not know.
	l.spawner.config.Nobody = true
	for _, ids := range [][]syscall.SysProcIDMap{l.spawner.ids.uids, l.spawner.ids.gids} {
		for i := range ids {
			if ids[i].ContainerID == sandboxNobody {
				ids[i].ContainerID++
			}
		}
	}
	if l.spawner.get() != nil {
		t.Fatal("there is a spawner")
	}
	if len(said) != 1 || !strings.Contains(said[0], "mount tmpfs on dev/shm: invalid argument") {
		t.Errorf("it said %q", said)
	}
}

// A build that comes just when its spawner dies is another one's.
func TestSpawnerIsDying(t *testing.T) {
	if !canClone {
		t.Skip("there is no spawner for this architecture")
	}
	dir := t.TempDir()
	l, err := New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	drv, err := store.MakePath("/nix/store", "test", store.HashOf(store.SHA256, nil), "x.drv")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		sides int // of the connection, that it has closed
	}{
		{"nobody reads from it any more", unix.SHUT_RD},
		{"it is closed", unix.SHUT_RDWR},
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		conn, err := unixConn(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Shutdown(pair[1], c.sides); err != nil {
			t.Fatal(err)
		}
		table, file, err := newBegunTable()
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		dead := make(chan unix.WaitStatus)
		dying := &spawner{watch: sysmon.Of(0, 0), conn: conn, table: table, builds: make(map[uint64]begun), ended: make(chan struct{})}
		go dying.listen(newFrameReader(conn), dead)
		l.spawner.close()
		l.spawner.off, l.spawner.spawner = false, dying
		time.AfterFunc(20*time.Millisecond, func() { close(dead) })
		_, err = l.Build(t.Context(), Job{Drv: drv, Derivation: &storeexpr.Derivation{Platform: hostSystem(), Builder: "/none"}})
		if err == nil || !strings.Contains(err.Error(), "cannot execute the builder /none") {
			t.Errorf("%s: %v", c.what, err)
		}
		if s := l.spawner.get(); s == nil || s == dying {
			t.Errorf("%s: no other spawner", c.what)
		}
	}
}

func TestCountersOfTheMachine(t *testing.T) {
	const text = "sockets: used 2\nTCP: inuse 3 orphan 14 tw 4 alloc 15 mem 5\nUDP: inuse 1 mem 160\nFRAG: inuse 6 memory 7\n"
	for _, c := range []struct {
		old, new string
		same     bool
	}{
		{"orphan 14", "orphan 0", true},
		{"alloc 15", "alloc 2345", true},
		{"mem 5", "mem 6", true},
		{"mem 160", "mem 1", true},
		{"used 2", "used 3", false},
		{"inuse 3", "inuse 33", false},
		{"tw 4", "tw 5", false},
		{"memory 7", "memory 8", false},
		{"FRAG", "FRAC", false},
		{"memory 7\n", "memory 7\nDCCP: mem 1\n", false},
		{"memory 7\n", "memory 7", false},
		{"UDP: inuse 1 mem 160\n", "", false},
		{"mem 160", "mem ", false},
	} {
		if !strings.Contains(text, c.old) {
			t.Fatal(c.old)
		}
		other := []byte(strings.Replace(text, c.old, c.new, 1))
		if sameCounters([]byte(text), other) != c.same || sameCounters(other, []byte(text)) != c.same {
			t.Errorf("%q and %q: the same is %v", c.old, c.new, !c.same)
		}
	}
}
