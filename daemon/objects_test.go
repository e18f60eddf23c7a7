package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"storefs/store"
)

func TestUploads(t *testing.T) { eachWay(t, testUploads) }

func testUploads(t *testing.T, dial dialer) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, s, socket)
	ctx := t.Context()
	info, err := c.AddNAR(ctx, "src", true, store.SHA256, strings.NewReader("a nar"))
	if err != nil || info.Path != path("src") || info.NarSize != 5 {
		t.Errorf("%+v %v", info, err)
	}
	// A refusal reaches a client that has much more to send.
	for range 20 {
		if _, err := c.AddNAR(ctx, "src", true, store.SHA256, io.LimitReader(junk{}, 8<<20)); !errors.Is(err, store.ErrBadArchive) {
			t.Fatalf("refused upload: %v", err)
		}
	}
	// An error here is told as it is, not as a broken connection.
	broken := errors.New("read src/file: permission denied")
	r, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, "a nar that"); w.CloseWithError(broken) }()
	if _, err := c.AddNAR(ctx, "src", true, store.SHA256, r); !errors.Is(err, broken) {
		t.Errorf("broken upload: %v", err)
	}
	if ps, err := c.AddTexts(ctx, []Text{{Name: "t", Text: []byte("a\x00\xff"), References: []store.Path{path("r")}}}); err != nil || len(ps) != 1 || ps[0] != path("t") {
		t.Error(ps, err)
	}
	if ps, err := c.AddExprs(ctx, []Text{{Name: "x.drv", Text: []byte("Derive"), Kinds: map[string]store.Kind{"out": store.KindRegular}}}); err != nil || ps[0] != path("x.drv") {
		t.Error(ps, err)
	}
	// Long lists go in pieces, in order.
	c.piece = 2500
	big := make([]byte, 2000)
	if ps, err := c.AddExprs(ctx, []Text{{Name: "x", Text: big}, {Name: "y", Text: big}}); err != nil || len(ps) != 2 || ps[1] != path("y") {
		t.Error(ps, err)
	}
	declared := []Declaration{{Path: path("x.drv"), Kinds: map[string]store.Kind{"out": store.KindRegular}}, {Path: path("y.drv")}}
	if ps, err := c.MissingExprs(ctx, declared); err != nil || !slices.Equal(ps, []store.Path{path("y.drv")}) {
		t.Error(ps, err)
	}
	// Those go in pieces, too.
	for range maxDeclared {
		declared = append(declared, declared[0])
	}
	if ps, err := c.MissingExprs(ctx, declared); err != nil || !slices.Equal(ps, []store.Path{path("y.drv")}) {
		t.Error(ps, err)
	}
	if err := c.AddSubstitute(ctx, path("p"), path("e.drv")); err != nil {
		t.Error(err)
	}
	if ps, err := c.Import(ctx, strings.NewReader("imported")); err != nil || len(ps) != 1 || ps[0] != path("imported") {
		t.Error(ps, err)
	}
	if ps, err := c.ImportExprs(ctx, []string{"/dir/x.drv"}); err != nil || len(ps) != 1 || ps[0] != path("x.drv") {
		t.Error(ps, err)
	}
	want := []string{
		"nar src true sha256 a nar",
		"1 texts",
		`text t "a\x00\xff" [` + string(path("r")) + "] map[]",
		"1 exprs",
		`expr x.drv "Derive" [] map[out:regular]`,
		"1 exprs", "1 exprs",
		"2 declared", fmt.Sprint(maxDeclared, " declared"), "2 declared",
		"substitute " + string(path("p")) + " " + string(path("e.drv")),
	}
	if d := cmp.Diff(want, f.added); d != "" {
		t.Error(d)
	}
}

type junk struct{}

func (junk) Read(p []byte) (int, error) { return copy(p, "junkjunkjunkjunk"), nil }

func TestExport(t *testing.T) { eachWay(t, testExport) }

func testExport(t *testing.T, dial dialer) {
	f := newFake(t)
	s, socket := f.serve()
	c := dial(t, s, socket)
	var out bytes.Buffer
	if err := c.Export(t.Context(), &out, []store.Path{path("a"), path("b")}); err != nil || out.String() != string(path("a")+path("b")) {
		t.Errorf("%q %v", &out, err)
	}
	// Refused before the first byte, and cut in the middle: both are told.
	for _, paths := range [][]store.Path{{path("bad")}, {path("a"), path("bad")}} {
		if err := c.Export(t.Context(), io.Discard, paths); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("%v: %v", paths, err)
		}
	}
	full := errors.New("disk full")
	if err := c.Export(t.Context(), failingWriter{full}, []store.Path{path("a")}); !errors.Is(err, full) {
		t.Errorf("local error: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// What a request claims to be long takes no memory before it is there.
func TestClaimedLength(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
	r.ContentLength = maxBody
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := readJSON(httptest.NewRecorder(), r, &struct{}{})
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > maxBody/8 {
		t.Errorf("it took %d bytes", took)
	}
}
