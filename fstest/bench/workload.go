package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// workload is something that is done with the tree at root.
type workload struct {
	name string
	run  func(root string) error
}

// files is how many small files a tree has, bigSize the size of its big one.
const (
	files   = 10_000
	bigSize = 1 << 30
)

// workloads by what their rows are called. What a process costs by itself is
// kept small beside what it does with files.
var workloads = []workload{
	{"stat 10k", func(root string) error {
		var st unix.Stat_t
		for i := range files {
			if err := unix.Lstat(small(root, i), &st); err != nil {
				return err
			}
		}
		return nil
	}},
	{"find 10k", func(root string) error { return do("/", nil, "find", root+"/many", "-size", "+1000000") }},
	{"tar 10k", func(root string) error { return do("/", nil, "sh", "-c", "tar cf - -C "+root+" many | cat >/dev/null") }},
	{"git status 2k", func(root string) error {
		return do(root+"/repo", []string{"GIT_OPTIONAL_LOCKS=0"}, "git", "-c", "safe.directory=*", "status", "--porcelain")
	}},
	{"g++", func(root string) error {
		argv := []string{"g++", "-fsyntax-only", "-nostdinc", "-nostdinc++"}
		for _, dir := range includes {
			argv = append(argv, "-isystem", root+"/headers"+dir)
		}
		return do("/", nil, append(argv, root+"/headers/t.cc")...)
	}},
	{"exec static ×100", func(root string) error {
		return do("/", nil, "sh", "-c", "i=0; while [ $i -lt 100 ]; do "+root+"/bin/busybox true; i=$((i+1)); done")
	}},
	{"exec dynamic ×100", func(root string) error {
		return do("/", nil, "sh", "-c", "r="+root+"; i=0; while [ $i -lt 100 ]; do $r/dynamic/ld.so --library-path $r/dynamic $r/dynamic/prog >/dev/null; i=$((i+1)); done")
	}},
	{"python start", func(root string) error {
		return do("/", []string{"PYTHONHOME=" + root + "/python", "PYTHONDONTWRITEBYTECODE=1"}, python,
			"-c", "import json, asyncio, email.message, http.client, xml.etree.ElementTree, decimal, unittest, argparse")
	}},
	{"sequential 1 GiB", func(root string) error { return readBig(root, unix.FADV_NORMAL, sequential) }},
	{"random 4K ×20k", func(root string) error { return readBig(root, unix.FADV_RANDOM, random) }},
	{"mmap 1 GiB", func(root string) error { return readBig(root, unix.FADV_NORMAL, mapped) }},
}

const python = "/usr/bin/python3"

// includes is where g++ looks for headers.
var includes = []string{
	"/usr/include/c++/12", "/usr/include/x86_64-linux-gnu/c++/12", "/usr/include/c++/12/backward",
	"/usr/lib/gcc/x86_64-linux-gnu/12/include", "/usr/local/include", "/usr/include/x86_64-linux-gnu", "/usr/include",
}

func small(root string, i int) string { return fmt.Sprintf("%s/many/d%02d/f%02d", root, i/100, i%100) }

func readBig(root string, advice int, read func(fd int) error) error {
	fd, err := unix.Open(root+"/big", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fadvise(fd, 0, 0, advice); err != nil {
		return err
	}
	return read(fd)
}

func sequential(fd int) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := unix.Read(fd, buf)
		if n == 0 || err != nil {
			return err
		}
	}
}

func random(fd int) error {
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	for range 20_000 {
		if _, err := unix.Pread(fd, buf, r.Int64N(bigSize/4096)*4096); err != nil {
			return err
		}
	}
	return nil
}

func mapped(fd int) error {
	m, err := unix.Mmap(fd, 0, bigSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	pages := 0
	for i := 0; i < len(m); i += 4096 {
		if m[i] != 0 {
			pages++
		}
	}
	if err := unix.Munmap(m); err != nil || pages == 0 {
		return fmt.Errorf("map: %d pages, %w", pages, err)
	}
	return nil
}

// makeTree makes what the workloads use.
func (b *bench) makeTree(tree string) error {
	for i := range files {
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(small(tree, i)), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(small(tree, i), fmt.Appendf(nil, "file %d\n", i), 0o644); err != nil {
			return err
		}
	}
	if err := makeBig(tree + "/big"); err != nil {
		return err
	}
	for _, dir := range []string{"bin", "dynamic", "headers", "repo", "python/lib"} {
		if err := os.MkdirAll(tree+"/"+dir, 0o755); err != nil {
			return err
		}
	}
	script := `set -e; cd $0
cp "$(command -v busybox)" bin/busybox
cp /bin/ls dynamic/prog
ldd /bin/ls | sed -n 's,.*=> \(/[^ ]*\) .*,\1,p' | xargs -I{} cp -L {} dynamic/
cp -L "$(ldd /bin/ls | sed -n 's,^[[:space:]]*\(/[^ ]*ld-[^ ]*\) .*,\1,p')" dynamic/ld.so
cp -a "$(` + python + ` -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" python/lib/
for i in $(seq 20); do mkdir repo/d$i; for j in $(seq 100); do echo $i $j >repo/d$i/f$j; done; done
`
	if err := do("/", nil, "sh", "-c", script, tree); err != nil {
		return err
	}
	if err := canonical(tree + "/repo"); err != nil {
		return err
	}
	git := []string{"GIT_CONFIG_GLOBAL=/dev/null"}
	for _, argv := range [][]string{
		{"git", "init", "-q"},
		{"git", "config", "core.trustctime", "false"},
		{"git", "config", "core.checkStat", "minimal"},
		{"git", "config", "gc.auto", "0"},
		{"git", "add", "-A"},
		{"git", "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "all"},
	} {
		if err := do(tree+"/repo", git, argv...); err != nil {
			return err
		}
	}
	text := ""
	for _, h := range []string{"iostream", "map", "regex", "filesystem", "thread", "random", "unordered_map", "algorithm"} {
		text += "#include <" + h + ">\n"
	}
	if err := os.WriteFile(tree+"/headers/t.cc", []byte(text+"int main() {}\n"), 0o644); err != nil {
		return err
	}
	out, err := exec.Command("g++", "-M", tree+"/headers/t.cc").Output()
	if err != nil {
		return fmt.Errorf("g++ -M: %w", err)
	}
	var headers []string
	for f := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(f, "/usr/") {
			headers = append(headers, filepath.Clean(f))
		}
	}
	return copyInto(tree+"/headers", headers)
}

// makeBig writes a file that no file system stores as a hole.
func makeBig(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	r := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for range bigSize / len(buf) {
		r.Read(buf)
		if _, err := f.Write(buf); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
