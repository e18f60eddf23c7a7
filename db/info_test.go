package db

import (
	"bytes"
	"errors"
	"testing"
)

// Whatever is in the file, it is either read as it was written or said to be
// damaged.
func FuzzRecord(f *testing.F) {
	f.Add(record{narHash: string(make([]byte, 32))}.encode())
	f.Add(record{
		kind: 2, narHash: string(bytes.Repeat([]byte{7}, 32)), narSize: 1 << 40, registered: 1 << 31,
		deriver: "d", ca: "text:sha256:x", references: []string{"a", "b"},
	}.encode())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 60))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord("x", b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeRecord("x", r.encode())
		if err != nil || !bytes.Equal(again.encode(), r.encode()) {
			t.Fatalf("%+v became %+v (%v)", r, again, err)
		}
	})
}

// What is shorter or longer than what was written is not taken for something else.
func TestRecordIsDamaged(t *testing.T) {
	whole := record{kind: 1, narHash: string(make([]byte, 32)), deriver: "d", references: []string{"a", "b"}}.encode()
	if _, err := decodeRecord("x", whole); err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if _, err := decodeRecord("x", whole[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v, want ErrDamaged", n, err)
		}
	}
	if _, err := decodeRecord("x", append(whole, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v, want ErrDamaged", err)
	}
}

func FuzzModulo(f *testing.F) {
	f.Add(encodeModulo(nil))
	f.Add([]byte{1, 3, 'o', 'u', 't', 6, 's', 'h', 'a', '2', '5', '6', 2, 'x', 'y'})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeModulo("x", b)
		if err != nil {
			return
		}
		again, err := decodeModulo("x", encodeModulo(m))
		if err != nil || len(again) != len(m) {
			t.Fatalf("%v became %v (%v)", m, again, err)
		}
	})
}
