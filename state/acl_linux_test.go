package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// passOn gives dir an access control list for all that is made in it: another user may
// do everything, and others nothing.
func passOn(t testing.TB, dir string) {
	t.Helper()
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, ^uint32(0)}, {2, 7, 12345}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	err := unix.Setxattr(dir, defaultACL, acl, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("no access control lists here")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Store objects, and scratch, get no access control list from where the state is.
func TestNoInheritedACL(t *testing.T) {
	ctx := context.Background()
	dir := memoryDir(t)
	passOn(t, dir)
	for name, later := range map[string]bool{"before": false, "of an earlier version": true} {
		at := filepath.Join(dir, name)
		if err := Init(at, testStore); err != nil {
			t.Fatal(err)
		}
		if later {
			passOn(t, filepath.Join(at, "builds"))
			passOn(t, filepath.Join(at, "real"))
		}
		s := openState(t, at)
		must(s.AddText(ctx, "text", []byte("hello"), nil))(t)
		must(s.AddNAR(ctx, "tree", true, store.SHA256, bytes.NewReader(archive(t, true, "x"))))(t)
		derivation(t, s, "x", []string{"out"}, nil, nil)
		if err := os.Mkdir(filepath.Join(s.Builds(), "scratch"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, top := range []string{s.RealDir(), s.Builds()} {
			err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				names := make([]byte, 1000)
				n, err := unix.Llistxattr(p, names)
				if err == nil && strings.Contains(string(names[:n]), "posix_acl") {
					t.Errorf("%s: %s has an access control list", name, p)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}
