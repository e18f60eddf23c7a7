package db

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whoever reads at a record sees what was there then, whatever was written since,
// taken back, or put in order by others.
func TestLayer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := new(layer)
		now := map[string]string{} // deletions are ""
		then := []map[string]string{{}}
		check := func(seq int) {
			want := then[seq]
			for k := range 30 {
				key := fmt.Sprint("k", k)
				value, ok := l.get(bucketUse, key, uint64(seq))
				w, wok := want[key]
				if ok != wok || (value != nil) != (w != "") || string(value) != w {
					t.Fatalf("at %d, %s: %q, %v; want %q, %v", seq, key, value, ok, w, wok)
				}
			}
			var got []string
			for p := l.from(bucketUse, "", uint64(seq)); p.key != ""; p = l.from(bucketUse, p.key+"\x00", uint64(seq)) {
				if string(p.value) != want[p.key] {
					t.Fatalf("at %d, walked to %s: %q", seq, p.key, p.value)
				}
				got = append(got, p.key)
			}
			if keys := slices.Sorted(maps.Keys(want)); !slices.Equal(got, keys) {
				t.Fatalf("at %d: walked over %q, want %q", seq, got, keys)
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "records") {
			b := &batch{seq: uint64(len(then)), layer: l}
			before := b.mark()
			for range rapid.IntRange(1, 6).Draw(t, "writes") {
				start, kept := b.mark(), maps.Clone(now)
				for range rapid.IntRange(1, 5).Draw(t, "changes") {
					key := fmt.Sprint("k", rapid.IntRange(0, 29).Draw(t, "key"))
					if rapid.Bool().Draw(t, "delete") {
						b.add(bucketUse, key, nil)
						now[key] = ""
						continue
					}
					value := fmt.Sprint(b.seq, "-", len(b.list))
					b.add(bucketUse, key, []byte(value))
					now[key] = value
				}
				if rapid.IntRange(0, 3).Draw(t, "refused") == 0 {
					b.cut(start)
					now = kept
				}
				check(rapid.IntRange(0, len(then)-1).Draw(t, "reader"))
			}
			if rapid.IntRange(0, 4).Draw(t, "failed") == 0 {
				b.cut(before)
				now = maps.Clone(then[len(then)-1])
				continue
			}
			then = append(then, maps.Clone(now))
		}
		for seq := range then {
			check(seq)
		}
	})
}
