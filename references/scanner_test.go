package references

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	base32 = "0123456789abcdfghijklmnpqrsvwxyz"
	hex    = "0123456789abcdef"
)

// text draws n bytes from an alphabet.
func text(r *rand.Rand, alphabet string, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return b
}

func digests(r *rand.Rand, n int) []string {
	ds := make([]string, n)
	for i := range ds {
		ds[i] = string(text(r, base32, 32))
	}
	return ds
}

// naive looks at every window.
func naive(ds []string, p []byte) []string {
	var found []string
	for _, d := range ds {
		if len(d) == 32 && bytes.Contains(p, []byte(d)) {
			found = append(found, d)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// feed writes p in pieces whose sizes cuts gives, in turn.
func feed(s *Scanner, p, cuts []byte) {
	for i := 0; len(p) > 0; i++ {
		n := len(p)
		if len(cuts) > 0 {
			n = min(n, int(cuts[i%len(cuts)])+1)
		}
		s.Write(p[:n])
		p = p[n:]
	}
}

func TestFound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ds := digests(r, 3)
	ds[2] = strings.Repeat("0", 31) + "1"
	hexDigest := string(text(r, hex, 32))
	all := append(slices.Clone(ds), hexDigest)
	overlapping := string(text(r, base32, 40))
	near := "x" + ds[0][1:]

	for _, c := range []struct {
		name    string
		digests []string
		text    string
		want    []string
	}{
		{"nothing to look for", nil, ds[0], nil},
		{"nothing to look in", ds, "", nil},
		{"alone", ds, ds[0], ds[:1]},
		{"one byte short", ds, ds[0][:31], nil},
		{"in a path", ds, "/nix/store/" + ds[1] + "-hello/bin", ds[1:2]},
		{"behind digest characters", ds, "abcd" + ds[0] + "abcd", ds[:1]},
		{"adjacent", ds, ds[0] + ds[1], ds[:2]},
		{"overlapping", []string{overlapping[:32], overlapping[5:37], overlapping[8:]}, overlapping, []string{overlapping[:32], overlapping[5:37], overlapping[8:]}},
		{"a near miss in front", ds, near + ds[0], ds[:1]},
		{"at the end of a run", ds, strings.Repeat("0", 500) + "1", ds[2:]},
		{"hexadecimal", all, "x" + hexDigest + "-foo", []string{hexDigest}},
		{"upper case is another", ds, strings.ToUpper(ds[0]), nil},
		{"twice", ds, ds[0] + " " + ds[0], ds[:1]},
		{"asked for twice", []string{ds[0], ds[0], ds[1]}, ds[0] + ds[1], ds[:2]},
		{"a digest of another length", []string{"abc", ds[0]}, "abc " + ds[0], ds[:1]},
	} {
		want := slices.Clone(c.want)
		slices.Sort(want)
		for size := 1; size <= 70; size++ {
			s := New(c.digests)
			feed(s, []byte(c.text), []byte{byte(size - 1)})
			if got := s.Found(); !slices.Equal(got, want) {
				t.Fatalf("%s, %d bytes a write: found %q, want %q", c.name, size, got, want)
			}
		}
	}
}

// Every offset relative to the stride, and every cut, must be seen.
func TestFoundAtEveryOffset(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	ds := digests(r, 50)
	for offset := range 200 {
		p := append(text(r, base32, offset), ds[7]...)
		p = append(p, text(r, base32, 200-offset)...)
		for _, cut := range []int{0, 1, offset, offset + 1, offset + 16, offset + 31, offset + 32} {
			s := New(ds)
			s.Write(p[:cut])
			s.Write(p[cut:])
			if got := s.Found(); !slices.Equal(got, ds[7:8]) {
				t.Fatalf("offset %d, cut at %d: found %q", offset, cut, got)
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	f.Add([]byte("hello"), []byte{3}, uint16(0), uint16(32), true)
	f.Add(text(r, base32, 300), []byte{0, 7, 31, 32, 60}, uint16(17), uint16(49), false)
	f.Add(text(r, hex, 200), []byte{30}, uint16(100), uint16(101), true)
	f.Add(bytes.Repeat([]byte("0"), 100), []byte{}, uint16(0), uint16(1), false)
	f.Fuzz(func(t *testing.T, p, cuts []byte, a, b uint16, damage bool) {
		// The digests are taken out of the text itself, or one byte away.
		ds := digests(r, 2)
		for _, at := range []int{int(a), int(b), len(p) - 32} {
			if at < 0 || at+32 > len(p) {
				continue
			}
			d := slices.Clone(p[at : at+32])
			ds = append(ds, string(d))
			if damage {
				d[(a^b)%32] ^= 1
				ds = append(ds, string(d))
			}
		}
		s := New(ds)
		feed(s, p, cuts)
		if got, want := s.Found(), naive(ds, p); !slices.Equal(got, want) {
			t.Fatalf("digests %q in %q: found %q, want %q", ds, p, got, want)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	const size = 16 << 20
	random := make([]byte, size)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for _, n := range []int{1, 100, 10_000} {
		ds := digests(r, n)
		// near holds the digests themselves with one character changed.
		near := make([]byte, 0, size)
		for len(near)+32 <= size {
			d := []byte(ds[r.IntN(n)])
			d[r.IntN(32)] = 'e'
			near = append(near, d...)
		}
		for _, c := range []struct {
			name string
			p    []byte
		}{
			{"random", random},
			{"text", bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog, and so on.\n"), size/56)},
			{"hex", text(r, hex, size)},
			{"base32", text(r, base32, size)},
			{"zeros", bytes.Repeat([]byte("0"), size)},
			{"near", near},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				s := New(ds)
				b.SetBytes(int64(len(c.p)))
				for b.Loop() {
					s.Write(c.p)
				}
				if len(s.Found()) != 0 {
					b.Fatal("found what is not there")
				}
			})
		}
	}
}

// Scanners of one set find what they are given, each for itself.
func TestScannersOfOneSet(t *testing.T) {
	ds := digests(rand.New(rand.NewPCG(9, 10)), 3)
	set := NewSet(ds)
	scanners := []*Scanner{set.Scanner(), set.Scanner(), set.Scanner()}
	var wg sync.WaitGroup
	for i, s := range scanners {
		wg.Go(func() { fmt.Fprint(s, "see ", ds[i], " ") })
	}
	wg.Wait()
	for i, s := range scanners {
		if got := s.Found(); !slices.Equal(got, ds[i:i+1]) {
			t.Errorf("found %q, want %q", got, ds[i])
		}
	}
}
