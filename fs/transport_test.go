package fs

import (
	"log/slog"
	"os"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What the kernel forgets it says once: the next server has to know, also if this one
// has parted already.
func TestForgetAfterParting(t *testing.T) {
	b, err := openBacking(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	kernel, asks, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer asks.Close()
	p, err := newPipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &raw{nodes: newNodes(), backing: b, data: data{backing: b}}
	tr := &transport{
		device: &device{file: kernel}, log: slog.New(slog.DiscardHandler), inputs: make(chan *input, 1),
		answerer: newAnswerer(r, &counted{RawFileSystem: fuse.NewDefaultRawFileSystem()}, &fuse.MountOptions{}, 1),
		crew:     newCrew(1, func() {}, nil),
	}
	tr.inputs <- &input{p, make([]byte, inputSize)}
	defer func() {
		tr.close()
		kernel.Close()
	}()
	n := r.nodes.object("x", unix.S_IFDIR)
	tr.part()
	in := fuse.ForgetIn{InHeader: fuse.InHeader{Opcode: codeForget, NodeId: n.id}, Nlookup: 1}
	in.Length = uint32(unsafe.Sizeof(in))
	if _, err := asks.Write(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in))); err != nil {
		t.Fatal(err)
	}
	tr.loop()
	if r.nodes.get(n.id) != nil {
		t.Error("the node is there")
	}
}
