package fs

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Before Linux 6.9 the kernel cannot repeat a request: the mount works, and says
// that it does not survive.
func TestSurvivalNeedsTheKernel(t *testing.T) {
	for _, able := range []bool{false, true} {
		in := fuse.InitIn{InHeader: fuse.InHeader{Opcode: 26, Unique: 2}, Major: 7, Minor: 40, Flags: fuse.CAP_INIT_EXT}
		in.Length = uint32(unsafe.Sizeof(in))
		if able {
			in.Flags2 = uint32(fuse.CAP_HAS_RESEND >> 32)
		}
		none, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := &connection{
			device: &device{file: none, init: bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)))},
			at:     mounted{dir: "/nowhere"},
			nodes:  newNodes(),
		}
		var said bytes.Buffer
		log := slog.New(slog.NewTextHandler(&said, nil))
		tr, err := c.open(&raw{}, &counted{RawFileSystem: fuse.NewDefaultRawFileSystem()}, &fuse.MountOptions{ExtraCapabilities: fuse.CAP_HAS_RESEND}, true, log)
		if err != nil {
			t.Fatal(err)
		}
		if survives := c.nodes.journal != nil; survives != able {
			t.Errorf("able: %v, it survives: %v", able, survives)
		}
		if warned := strings.Contains(said.String(), "the mount does not survive its server: that needs Linux 6.9 or later"); warned == able {
			t.Errorf("able: %v, said: %q", able, said.String())
		}
		if held := (&Server{connection: c}).Held(); (held != nil) != able {
			t.Errorf("able: %v, held: %v", able, held)
		}
		tr.close()
		c.close()
	}
}
