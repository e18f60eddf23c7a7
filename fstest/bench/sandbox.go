package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"storefs/builder"
	"storefs/store"
	"storefs/storeexpr"
)

// sandbox: a build of one empty directory, from its scratch directory to the
// removal of that, with its log and the hash of the output, beside bubblewrap,
// which runs the same program in as many namespaces, and of all this only makes
// the sandbox.
func (b *bench) sandbox() error {
	if _, err := exec.LookPath("bwrap"); err != nil {
		return fmt.Errorf("bubblewrap is not installed (make deps)")
	}
	dir := filepath.Join(b.fast, "sandbox")
	real := filepath.Join(dir, "real")
	var closure []store.Info
	for i := range 2000 {
		p := b.path("input", i)
		if err := os.MkdirAll(filepath.Join(real, p.Base(), "bin"), 0o755); err != nil {
			return err
		}
		closure = append(closure, store.Info{Path: p, Kind: store.KindDirectory})
	}
	program, err := mkdirProgram()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(real, closure[0].Path.Base(), "bin/mkdir"), program, 0o755); err != nil {
		return err
	}
	out := b.path("out", 0)
	job := builder.Job{Drv: b.path("out.drv", 0), Derivation: &storeexpr.Derivation{
		Outputs:  []storeexpr.Output{{Name: "out", Path: out}},
		Platform: "x86_64-linux", Builder: string(closure[0].Path) + "/bin/mkdir",
		Args: []string{string(out)},
	}}
	build := func(l *builder.Local, paths, times int) error {
		job := job
		job.Inputs = closure[:paths]
		for range times {
			r, err := l.Build(context.Background(), job)
			if err != nil {
				var f *store.Failure
				if errors.As(err, &f) {
					return errors.New(f.Text())
				}
				return err
			}
			r.Release()
		}
		return nil
	}
	open := func(name string, edit func(o *builder.Options)) (*builder.Local, error) {
		o := builder.Options{
			Store: benchStore, Real: real, System: "x86_64-linux",
			Builds: filepath.Join(dir, name, "builds"), Logs: filepath.Join(dir, name, "log"),
			Say: func(line string) { fmt.Fprintln(os.Stderr, "bench:", line) },
		}
		edit(&o)
		if err := os.MkdirAll(o.Builds, 0o755); err != nil {
			return nil, err
		}
		return builder.New(o)
	}
	pooled, err := open("pooled", func(o *builder.Options) { o.Spare = filepath.Join(dir, "spare") })
	if err != nil {
		return err
	}
	defer pooled.Close()
	fresh, err := open("fresh", func(*builder.Options) {})
	if err != nil {
		return err
	}
	defer fresh.Close()
	again, err := open("again", func(o *builder.Options) { o.NoSpawner = true })
	if err != nil {
		return err
	}
	defer again.Close()

	for _, paths := range []int{1, 100, 500, 2000} {
		times := max(5, 50-paths/10)
		bwrap := b.bubblewrap(dir, real, closure[:paths])
		peer := func() error {
			for range times {
				if err := bwrap(); err != nil {
					return err
				}
			}
			return nil
		}
		for _, way := range []struct {
			name string
			l    *builder.Local
		}{{"pooled", pooled}, {"all fresh", fresh}, {"no spawner", again}} {
			if err := b.measure(pair{
				work: fmt.Sprintf("sandbox, %s; paths: %d", way.name, paths), peer: "bwrap --unshare-all", each: times,
				// The first after a while finds everything cold: 10 ms, for any program.
				before:     func() error { return build(way.l, paths, 1) },
				beforePeer: bwrap,
				ours:       func() error { return build(way.l, paths, times) },
				theirs:     peer,
			}, b.runs); err != nil {
				return err
			}
		}
	}
	var ballast []byte
	small := func() {
		ballast = nil
		debug.FreeOSMemory()
	}
	for _, way := range []struct {
		name string
		l    *builder.Local
	}{{"pooled", pooled}, {"no spawner", again}} {
		const times = 20
		run := func() error { return build(way.l, 1, times) }
		if err := b.measure(pair{
			work: fmt.Sprintf("sandbox, %s; a heap of 512 MB", way.name), peer: "the same, small heap", each: times,
			before: func() error {
				ballast = make([]byte, 512<<20)
				for i := 0; i < len(ballast); i += 4096 {
					ballast[i] = 1
				}
				return build(way.l, 1, 1)
			},
			beforePeer: func() error { small(); return build(way.l, 1, 1) },
			ours:       func() error { defer func() { ballast[0]++ }(); return run() },
			theirs:     run,
		}, b.runs); err != nil {
			return err
		}
	}
	small()
	return nil
}

// mkdirProgram is a program that makes the directory that its last argument names,
// and does nothing else: under a hypervisor, the start of a C library, which asks
// the processor what it is, takes half as long as the rest of a build.
func mkdirProgram() ([]byte, error) {
	if runtime.GOARCH != "amd64" {
		busybox, err := exec.LookPath("busybox")
		if err != nil {
			return nil, fmt.Errorf("busybox is not installed (make deps)")
		}
		return os.ReadFile(busybox)
	}
	code := []byte{
		0x48, 0x8b, 0x0c, 0x24, // mov rcx, [rsp]: the number of arguments
		0x48, 0x8b, 0x3c, 0xcc, // mov rdi, [rsp+8*rcx]: the last one
		0xbe, 0xff, 0x01, 0, 0, // mov esi, 0777
		0xb8, 83, 0, 0, 0, // mov eax, mkdir
		0x0f, 0x05, // syscall
		0x31, 0xff, // xor edi, edi
		0xb8, 231, 0, 0, 0, // mov eax, exit_group
		0x0f, 0x05, // syscall
	}
	const base, head = 0x400000, 64 + 56
	var b bytes.Buffer
	size := uint64(head + len(code))
	err := errors.Join(
		binary.Write(&b, binary.LittleEndian, elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: base + head, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		}),
		binary.Write(&b, binary.LittleEndian, elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
		}))
	b.Write(code)
	return b.Bytes(), err
}

// bubblewrap runs the builder of job with the same file system.
func (b *bench) bubblewrap(dir, real string, closure []store.Info) func() error {
	args := []string{"--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"}
	for _, in := range closure {
		args = append(args, "--ro-bind", filepath.Join(real, in.Path.Base()), string(in.Path))
	}
	scratch := filepath.Join(dir, "bwrap")
	args = append(args, "--bind", scratch, "/build")
	text := strings.Join(args, "\x00") + "\x00"
	return func() error {
		if err := os.Mkdir(scratch, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		cmd := exec.Command("bwrap", "--args", "3", string(closure[0].Path)+"/bin/mkdir", "/build/out")
		cmd.ExtraFiles = []*os.File{r}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			w.Close()
			return err
		}
		_, err = w.WriteString(text)
		w.Close()
		if e := cmd.Wait(); e != nil {
			return fmt.Errorf("bwrap: %w", e)
		}
		if err != nil {
			return err
		}
		return os.Remove(scratch + "/out")
	}
}
