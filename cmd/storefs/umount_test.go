package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"storefs/state"
)

// Who is about to die, and takes clients still, is no owner that has to be stopped.
func TestUmountWhileTheOwnerDies(t *testing.T) {
	a, _, _ := capture(t)
	a.State = filepath.Join(t.TempDir(), "state")
	if err := state.Init(a.State, "/nix/store"); err != nil {
		t.Fatal(err)
	}
	dying, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dying.SetUnlinkOnClose(false)
	died := make(chan error, 1)
	go func() {
		c, err := dying.Accept()
		if err == nil {
			err = c.Close()
		}
		dying.Close()
		died <- err
	}()
	if err := (&umountCmd{}).Run(t.Context(), a); err == nil || !strings.Contains(err.Error(), "is not mounted") {
		t.Errorf("%v; want that it is not mounted", err)
	}
	if err := <-died; err != nil {
		t.Error(err)
	}
}
