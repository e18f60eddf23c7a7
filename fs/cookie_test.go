package fs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"pgregory.net/rapid"

	"storefs/store"
)

func TestCookies(t *testing.T) {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	names := rapid.StringMatching("[" + alphabet + "]{32}-[a-z]{1,3}")
	rapid.Check(t, func(t *rapid.T) {
		a, b := names.Draw(t, "a"), names.Draw(t, "b")
		if rapid.Bool().Draw(t, "close") {
			same := rapid.IntRange(0, 31).Draw(t, "same")
			b = a[:same] + b[same:]
		}
		ca, cb := cookie(a), cookie(b)
		if ca < cookieFirst || int64(ca) < 0 {
			t.Fatalf("cookie(%q) = %d", a, ca)
		}
		switch {
		case a[:cookieLen] == b[:cookieLen]:
			if ca != cb {
				t.Fatalf("%q, %q: %d, %d", a, b, ca, cb)
			}
		case (a < b) != (ca < cb):
			t.Fatalf("%q, %q: %d, %d", a, b, ca, cb)
		}
		// Whoever comes back with a's cookie sees the names behind it only.
		if (b > afterCookie(ca)) != (cb > ca) {
			t.Fatalf("after %q: %q", a, b)
		}
	})
	if afterCookie(0) != "" || afterCookie(2) != "" {
		t.Error("the dots are in front of all names")
	}
}

// tied lists names that all have the same cookie, among others.
type tied []string

func (s tied) Lookup(string) (Entry, error) { return Entry{}, store.ErrUnknown }

func (s tied) List(after string, n int) (list []Entry, _ error) {
	for _, name := range s {
		if name > after && len(list) < n {
			list = append(list, Entry{Name: name, Valid: true})
		}
	}
	return list, nil
}

func TestTiedCookiesAreListedOnce(t *testing.T) {
	var names tied
	for _, first := range []string{"0", "1", "2"} {
		for i := range 130 {
			names = append(names, fmt.Sprintf("%s%s%04d%s-x", first, strings.Repeat("z", 11), i, strings.Repeat("z", 16)))
		}
	}
	for _, plus := range []bool{false, true} {
		for _, size := range []int{130 * 200, 150 * 200, 2000 * 200} {
			r := &raw{store: names}
			var got []string
			for offset := uint64(0); ; {
				buf := make([]byte, size)
				out := fuse.NewDirEntryList(buf, offset)
				if st := r.listRoot(&listing{out: out, plus: plus, left: size}, offset); !st.Ok() {
					t.Fatal(st)
				}
				var entries []fuse.DirEntry
				var err error
				if plus {
					entries, _, err = fuse.ParseDirLookupEntries(out.Bytes())
				} else {
					entries, err = fuse.ParseDirEntries(out.Bytes())
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(entries) == 0 {
					break
				}
				for _, e := range entries {
					got = append(got, e.Name)
					offset = e.Off
				}
			}
			if want := append([]string{".", ".."}, names...); !slices.Equal(got, want) {
				t.Errorf("plus %v, size %d: %d names, want %d", plus, size, len(got), len(want))
			}
		}
	}
}
