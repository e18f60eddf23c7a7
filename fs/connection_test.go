package fs

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"storefs/store"
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

// validNames is a store of directories.
type validNames []string

func (v validNames) Lookup(name string) (Entry, error) {
	if slices.Contains(v, name) {
		return Entry{Name: name, Valid: true, Kind: store.KindDirectory}, nil
	}
	return Entry{}, store.ErrUnknown
}

func (validNames) List(string, int) ([]Entry, error) { return nil, nil }

// The kernel hears of what was deleted while nobody served, and of what the server
// before knew to be gone, as that may have been killed before it said so.
func TestResumeTellsWhatIsGone(t *testing.T) {
	table := newNodes()
	keep(t, table)
	table.object("valid", unix.S_IFDIR)
	want := []uint64{table.object("deleted", unix.S_IFDIR).id, table.object("gone", unix.S_IFDIR).id}
	table.unname("gone", false)
	table.object("gone", unix.S_IFDIR) // it is there again
	table.promise("promised", unix.S_IFDIR)
	next, err := again(t, table)
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		connection: &connection{device: &device{file: said}, nodes: next},
		raw:        &raw{store: validNames{"valid", "gone"}}, notes: newNotifier(),
	}
	defer s.close()
	if err := s.resume(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(said.Name())
	if err != nil {
		t.Fatal(err)
	}
	var told []uint64
	for len(b) > 0 {
		h := (*fuse.OutHeader)(unsafe.Pointer(&b[0]))
		if h.Status == -fuse.NOTIFY_INVAL_INODE {
			told = append(told, *(*uint64)(unsafe.Pointer(&b[outHeader])))
		}
		b = b[h.Length:]
	}
	slices.Sort(told)
	if !slices.Equal(told, want) {
		t.Errorf("the kernel was told of nodes %v, want %v", told, want)
	}
	var pruned []uint64
	for _, n := range s.notes.deleted {
		pruned = append(pruned, n.id)
	}
	slices.Sort(pruned)
	if !slices.Equal(pruned, want) {
		t.Errorf("nodes %v are to be dropped, want %v", pruned, want)
	}
}
