package fstest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// posix is a realised tree in a mount, beside the same tree on the native file
// system.
type posix struct {
	*testing.T
	dir, native string
}

// want checks the errno of a call.
func (p *posix) want(what string, err error, e syscall.Errno) {
	p.Helper()
	if e == 0 && err != nil || e != 0 && !errors.Is(err, e) {
		p.Errorf("%s: %v, want %v", what, err, e)
	}
}

// The calls that a read-only file system answers, case by case: what POSIX and
// Linux say, and what the native file system does beside it.
var posixTests = map[string]func(p *posix){
	"writes are EROFS": func(p *posix) {
		f, d, n := p.dir+"/file", p.dir+"/sub", p.dir+"/new"
		open := func(path string, flags int) error {
			fd, err := unix.Open(path, flags, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		for what, err := range map[string]error{
			"open O_WRONLY": open(f, unix.O_WRONLY), "open O_RDWR": open(f, unix.O_RDWR), "open O_TRUNC": open(f, unix.O_RDONLY|unix.O_TRUNC),
			"create": open(n, unix.O_CREAT|unix.O_WRONLY), "O_TMPFILE": open(d, unix.O_TMPFILE|unix.O_WRONLY),
			"truncate": unix.Truncate(f, 0), "mkdir": unix.Mkdir(n, 0o755), "rmdir": unix.Rmdir(d), "unlink": unix.Unlink(f),
			"rename": unix.Rename(f, n), "link": unix.Link(f, n), "symlink": unix.Symlink("x", n), "mkfifo": unix.Mkfifo(n, 0o644),
			"chmod": unix.Chmod(f, 0o600), "chown": unix.Chown(f, 1, 1), "utimes": unix.UtimesNanoAt(unix.AT_FDCWD, f, make([]unix.Timespec, 2), 0),
			"setxattr": unix.Setxattr(f, "user.x", []byte("y"), 0), "removexattr": unix.Removexattr(f, "user.x"), "access W_OK": unix.Access(f, unix.W_OK),
		} {
			p.want(what, err, unix.EROFS)
		}
	},
	"create of what exists": func(p *posix) {
		_, err := unix.Open(p.dir+"/file", unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY, 0o644)
		p.want("O_EXCL", err, unix.EEXIST)
		p.want("mkdir", unix.Mkdir(p.dir+"/sub", 0o755), unix.EEXIST)
		p.want("symlink", unix.Symlink("x", p.dir+"/file"), unix.EEXIST)
		fd, err := unix.Open(p.dir+"/file", unix.O_CREAT|unix.O_RDONLY, 0o644)
		p.want("O_CREAT to read", err, 0)
		unix.Close(fd)
	},
	"walks": func(p *posix) {
		stat := func(path string) error { var st unix.Stat_t; return unix.Stat(path, &st) }
		p.want("below a file", stat(p.dir+"/file/x"), unix.ENOTDIR)
		p.want("file with a slash", stat(p.dir+"/file/"), unix.ENOTDIR)
		p.want("nothing", stat(p.dir+"/nothing"), unix.ENOENT)
		p.want("below nothing", stat(p.dir+"/nothing/x"), unix.ENOENT)
		p.want("dangling link", stat(p.dir+"/dangling"), unix.ENOENT)
		p.want("loop", stat(p.dir+"/loop"), unix.ELOOP)
		p.want("255 bytes", stat(p.dir+"/"+strings.Repeat("n", 255)), 0)
		p.want("256 bytes", stat(p.dir+"/"+strings.Repeat("n", 256)), unix.ENAMETOOLONG)
		p.want("long path", stat(p.dir+strings.Repeat("/sub/..", 600)+"/file"), unix.ENAMETOOLONG)
		p.want("link to a directory, walked", stat(p.dir+"/dirlink/inner"), 0)
		p.want("dot dot", stat(p.dir+"/sub/../file"), 0)
		p.want("name of any bytes", stat(p.dir+"/\xff\xfe\n name"), 0)
	},
	"open flags": func(p *posix) {
		open := func(path string, flags int) error {
			fd, err := unix.Open(path, flags, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
		p.want("O_DIRECTORY of a file", open(p.dir+"/file", unix.O_DIRECTORY), unix.ENOTDIR)
		p.want("O_NOFOLLOW of a link", open(p.dir+"/link", unix.O_NOFOLLOW), unix.ELOOP)
		p.want("O_NOFOLLOW of a file", open(p.dir+"/file", unix.O_NOFOLLOW), 0)
		p.want("O_PATH of a link", open(p.dir+"/link", unix.O_PATH|unix.O_NOFOLLOW), 0)
		p.want("a directory to write", open(p.dir+"/sub", unix.O_WRONLY), unix.EISDIR)
		p.want("O_DIRECT", open(p.dir+"/big", unix.O_DIRECT), 0)
		p.want("O_NOATIME", open(p.dir+"/file", unix.O_NOATIME), 0)
		fd, err := unix.Openat2(unix.AT_FDCWD, p.dir+"/sub/inner", &unix.OpenHow{Resolve: unix.RESOLVE_NO_SYMLINKS})
		p.want("RESOLVE_NO_SYMLINKS", err, 0)
		unix.Close(fd)
		root, err := unix.Open(p.dir+"/sub", unix.O_PATH|unix.O_DIRECTORY, 0)
		p.want("O_PATH of a directory", err, 0)
		defer unix.Close(root)
		_, err = unix.Openat2(root, "../file", &unix.OpenHow{Resolve: unix.RESOLVE_BENEATH})
		p.want("RESOLVE_BENEATH", err, unix.EXDEV)
	},
	"reads": func(p *posix) {
		fd, err := unix.Open(p.dir+"/file", unix.O_RDONLY, 0)
		p.want("open", err, 0)
		defer unix.Close(fd)
		b := make([]byte, 100)
		n, err := unix.Pread(fd, b, 1<<20)
		if n != 0 || err != nil {
			p.Errorf("read past the end: %d, %v", n, err)
		}
		_, err = unix.Write(fd, b)
		p.want("write to a file open for reading", err, unix.EBADF)
		d, err := unix.Open(p.dir+"/sub", unix.O_RDONLY, 0)
		p.want("open directory", err, 0)
		defer unix.Close(d)
		_, err = unix.Read(d, b)
		p.want("read of a directory", err, unix.EISDIR)
		_, err = unix.Readlink(p.dir+"/file", b)
		p.want("readlink of a file", err, unix.EINVAL)
		n, err = unix.Readlink(p.dir+"/link", b[:3])
		if n != 3 || err != nil || string(b[:3]) != "fil" {
			p.Errorf("readlink into 3 bytes: %q, %v", b[:n], err)
		}
		p.want("flock shared", unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB), 0)
	},
	"mappings": func(p *posix) {
		fd, err := unix.Open(p.dir+"/big", unix.O_RDONLY, 0)
		p.want("open", err, 0)
		defer unix.Close(fd)
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_WRITE|unix.PROT_READ, unix.MAP_SHARED)
		p.want("shared, to write", err, unix.EACCES)
		for _, how := range []int{unix.MAP_SHARED, unix.MAP_PRIVATE} {
			m, err := unix.Mmap(fd, 0, 1<<20, unix.PROT_READ, how)
			p.want("to read", err, 0)
			native, _ := os.ReadFile(p.native + "/big")
			if !bytes.Equal(m, native[:1<<20]) {
				p.Error("a mapping has other bytes")
			}
			unix.Munmap(m)
		}
	},
	"attributes": func(p *posix) {
		for name, want := range map[string]struct {
			mode  uint32
			nlink uint64
		}{"file": {unix.S_IFREG | 0o444, 1}, "prog": {unix.S_IFREG | 0o555, 1}, "sub": {unix.S_IFDIR | 0o555, 0}, "link": {unix.S_IFLNK, 1}, "hard1": {unix.S_IFREG | 0o444, 0}} {
			var st, native unix.Stat_t
			p.want("lstat "+name, unix.Lstat(p.dir+"/"+name, &st), 0)
			p.want("lstat "+name, unix.Lstat(p.native+"/"+name, &native), 0)
			mode := st.Mode
			if mode&unix.S_IFMT == unix.S_IFLNK {
				mode = unix.S_IFLNK
			}
			if mode != want.mode || st.Mtim.Sec != 1 || st.Size != native.Size && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				p.Errorf("%s: mode %o, mtime %d, size %d", name, st.Mode, st.Mtim.Sec, st.Size)
			}
			if want.nlink != 0 && uint64(st.Nlink) != want.nlink {
				p.Errorf("%s: %d links", name, st.Nlink)
			}
			var again unix.Stat_t
			f, err := os.Open(p.dir + "/" + name)
			if err == nil && name != "link" {
				p.want("fstat", unix.Fstat(int(f.Fd()), &again), 0)
				f.Close()
				if again.Ino != st.Ino || again.Dev != st.Dev {
					p.Errorf("%s: inode %d by name, %d by descriptor", name, st.Ino, again.Ino)
				}
			}
		}
		var sfs unix.Statfs_t
		p.want("statfs", unix.Statfs(p.dir, &sfs), 0)
		if sfs.Flags&unix.ST_RDONLY == 0 || sfs.Flags&unix.ST_NOSUID == 0 || sfs.Flags&unix.ST_NODEV == 0 {
			p.Errorf("statfs flags %x", sfs.Flags)
		}
	},
	"listings": func(p *posix) {
		list := func(dir string) (names []string) {
			entries, err := os.ReadDir(dir)
			if err != nil {
				p.Fatal(err)
			}
			for _, e := range entries {
				names = append(names, fmt.Sprint(e.Name(), e.Type()))
			}
			return names
		}
		for _, d := range []string{"", "/sub", "/many"} {
			if ours, theirs := list(p.dir+d), list(p.native+d); !slices.Equal(ours, theirs) {
				p.Errorf("%q lists %d names, native %d", d, len(ours), len(theirs))
			}
		}
		// A listing can be left and resumed at any place.
		fd, err := unix.Open(p.dir+"/many", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		p.want("open", err, 0)
		defer unix.Close(fd)
		buf := make([]byte, 512)
		seen := map[string]int{}
		for {
			n, err := unix.Getdents(fd, buf)
			if err != nil || n == 0 {
				break
			}
			_, _, names := unix.ParseDirent(buf[:n], -1, nil)
			for _, name := range names {
				seen[name]++
			}
		}
		if len(seen) != 498 {
			p.Errorf("%d names in small pieces, want 498", len(seen))
		}
		for n, times := range seen {
			if times != 1 {
				p.Errorf("%s is listed %d times", n, times)
			}
		}
		_, err = unix.Seek(fd, 0, unix.SEEK_SET)
		p.want("rewind", err, 0)
		if n, err := unix.Getdents(fd, buf); n <= 0 || err != nil {
			p.Errorf("after rewinding: %d, %v", n, err)
		}
	},
	"holes": func(p *posix) {
		fd, err := unix.Open(p.dir+"/sparse", unix.O_RDONLY, 0)
		p.want("open", err, 0)
		defer unix.Close(fd)
		end, err := unix.Seek(fd, 0, unix.SEEK_END)
		if end != 3<<20 || err != nil {
			p.Errorf("end at %d, %v", end, err)
		}
		data, err := unix.Seek(fd, 0, unix.SEEK_DATA)
		if err != nil || data > 2<<20 {
			p.Errorf("data at %d, %v", data, err)
		}
		_, err = unix.Seek(fd, 4<<20, unix.SEEK_DATA)
		p.want("data past the end", err, unix.ENXIO)
	},
	"exec": func(p *posix) {
		prog := exec.Command(p.dir + "/prog")
		prog.Args = []string{"busybox", "echo", "hi"}
		if out, err := prog.CombinedOutput(); err != nil || string(out) != "hi\n" {
			p.Errorf("prog: %s, %v", out, err)
		}
		p.want("exec of a plain file", exec.Command(p.dir+"/file").Run(), unix.EACCES)
		p.want("access X_OK", unix.Access(p.dir+"/file", unix.X_OK), unix.EACCES)
		p.want("access X_OK", unix.Access(p.dir+"/prog", unix.X_OK|unix.R_OK), 0)
	},
	"fsx: random reads are native's": func(p *posix) {
		random := rand.New(rand.NewPCG(1, 2))
		names := []string{"big", "sparse", "file", "sub/inner"}
		type pair struct{ ours, native *os.File }
		var files []pair
		for _, n := range names {
			a, err := os.Open(p.dir + "/" + n)
			if err != nil {
				p.Fatal(err)
			}
			defer a.Close()
			b, err := os.Open(p.native + "/" + n)
			if err != nil {
				p.Fatal(err)
			}
			defer b.Close()
			files = append(files, pair{a, b})
		}
		one, two := make([]byte, 300<<10), make([]byte, 300<<10)
		for i := range 4000 {
			f := files[random.IntN(len(files))]
			offset, size := random.Int64N(4<<20), 1+random.IntN(len(one))
			if random.IntN(2) == 0 {
				offset, size = offset&^4095, 1+random.IntN(4096)
			}
			switch random.IntN(20) {
			case 0:
				unix.Fadvise(int(f.ours.Fd()), 0, 0, unix.FADV_DONTNEED)
			case 1: // splice into a pipe
				unix.Fadvise(int(f.ours.Fd()), offset, int64(size), unix.FADV_WILLNEED)
			}
			n, err1 := f.ours.ReadAt(one[:size], offset)
			m, err2 := f.native.ReadAt(two[:size], offset)
			if n != m || (err1 == nil) != (err2 == nil) || !bytes.Equal(one[:n], two[:m]) {
				p.Fatalf("read %d of %s at %d, %d bytes: %d, %v; native %d, %v", i, f.ours.Name(), offset, size, n, err1, m, err2)
			}
		}
	},
}

func TestPosix(t *testing.T) {
	l := newLab(t)
	native := l.Dir + "/tree"
	big := make([]byte, 4<<20)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(big)
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(native+"/"+name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"sub", "many"} {
		if err := os.MkdirAll(native+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("file", []byte("hello\n"))
	write("sub/inner", []byte("inner\n"))
	write("big", big)
	write("hard1", []byte("linked\n"))
	write("\xff\xfe\n name", nil)
	write(strings.Repeat("n", 255), nil)
	for i := range 498 {
		write(fmt.Sprintf("many/%03d", i), nil)
	}
	l.copyFile(need(t, "busybox"), "tree/busybox")
	sparse, err := os.Create(native + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	_, err = sparse.WriteAt([]byte("data"), 2<<20)
	if err = errors.Join(err, sparse.Truncate(3<<20), sparse.Close()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Rename(native+"/busybox", native+"/prog"), os.Link(native+"/hard1", native+"/hard2"), os.Symlink("file", native+"/link"),
		os.Symlink("sub", native+"/dirlink"), os.Symlink("nowhere", native+"/dangling"), os.Symlink("loop", native+"/loop"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := l.ok("add", native)[0]
	l.serve()
	for name, test := range posixTests {
		t.Run(name, func(t *testing.T) { test(&posix{t, dir, native}) })
	}
	if _, err := os.Lstat(dir + "/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made")
	}
}

// Placeholder, realised, deleted, and again: no stale node, no leak.
func TestRealiseDeleteCycles(t *testing.T) {
	cycles := 150
	if os.Getenv("STOREFS_CYCLES") != "" {
		fmt.Sscan(os.Getenv("STOREFS_CYCLES"), &cycles)
	}
	l := newLab(t)
	file := l.star("a.star", `
d = sh("d", "mkdir -p $out/sub; echo d > $out/sub/file")
f = sh("f", "echo f > $out", kind = "regular")
default = [d, f]`)
	outs := l.outputs(file)
	l.serve()
	ino := map[string]uint64{}
	var before int
	for i := range cycles {
		for _, out := range outs {
			path, want := out, "f\n"
			if strings.HasSuffix(out, "-d") {
				path, want = out+"/sub/file", "d\n"
			}
			b, err := os.ReadFile(path)
			if err != nil || string(b) != want {
				t.Fatalf("cycle %d: %s: %q, %v", i, path, b, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(out, &st); err != nil {
				t.Fatalf("cycle %d: %v", i, err)
			}
			if ino[out] != 0 && ino[out] != st.Ino {
				t.Errorf("cycle %d: %s has inode %d, had %d", i, out, st.Ino, ino[out])
			}
			ino[out] = st.Ino
		}
		l.ok(append([]string{"delete"}, outs...)...)
		// By then there has been as much garbage as is not collected before.
		if i == cycles/2 {
			before = l.memory()
		}
	}
	if after := l.memory(); after > before+(20<<10) {
		t.Errorf("the server grew from %d to %d KiB in %d cycles", before, after, cycles-cycles/2)
	}
	if names := l.inShell("ls " + l.Store).stdout; strings.Contains(names, "-d\n") || strings.Contains(names, "-f\n") {
		t.Errorf("still listed: %s", names)
	}
}

// memory is the server's anonymous resident memory in KiB.
func (l *lab) memory() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.server()))
	if err != nil {
		l.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			fmt.Sscan(v, &n)
		}
	}
	return n
}
