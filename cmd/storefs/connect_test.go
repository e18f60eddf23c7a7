package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"storefs/daemon"
	"storefs/state"
)

// A command waits for an owner that is ending as long as that one waits for others,
// and becomes the owner then.
func TestConnectWhileOthersAreWaitedFor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := state.Init(dir, "/nix/store"); err != nil {
		t.Fatal(err)
	}
	ending, _, _ := capture(t)
	ending.State = dir
	own, err := openOwner(ending, ownerOptions{role: "build", sandbox: sandboxFlags{NoSpawner: true}})
	if err == nil {
		err = own.admit()
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := daemon.Dial(t.Context(), ending.socket(), false)
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- own.close(t.Context()) }()
	for end := time.Now().Add(time.Minute); ; {
		c, err := daemon.Dial(t.Context(), ending.socket(), false)
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(end) {
			t.Fatal("it takes clients for ever")
		}
	}
	a, _, stderr := capture(t)
	a.State, a.patience = dir, 50*time.Millisecond
	nothing := func(*daemon.Client) error { return nil }
	look := func(c *daemon.Client) error {
		if c.Hello().Role != "build" {
			t.Errorf("who only looks sees a %s", c.Hello().Role)
		}
		_, err := c.Status(t.Context())
		return err
	}
	says := func(stderr func() string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !strings.Contains(stderr(), "waiting for the process"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it does not say what it waits for")
			}
		}
	}
	// Who only looks can, still. Another one says after a second that it waits, and ends
	// when it is interrupted.
	if err := a.connect(t.Context(), ownerOptions{role: "log", watch: true}, look); err != nil {
		t.Errorf("who only looks: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	interrupted := make(chan error, 1)
	go func() { interrupted <- a.connect(ctx, ownerOptions{role: "add"}, nothing) }()
	says(stderr)
	cancel()
	if err := <-interrupted; !errors.Is(err, context.Canceled) {
		t.Errorf("who is interrupted: %v", err)
	}
	// When the last client has left, the end itself takes what the machine needs for it.
	patient, _, stderr := capture(t)
	patient.State = dir
	connected := make(chan error, 1)
	go func() { connected <- patient.connect(t.Context(), ownerOptions{role: "add"}, nothing) }()
	says(stderr)
	other.Close()
	if err := <-connected; err != nil {
		t.Error(err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// An owner that breaks a connection off, and is there all the same, is not asked for
// ever.
func TestConnectionBreaksOff(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := state.Init(dir, "/nix/store"); err != nil {
		t.Fatal(err)
	}
	a, _, _ := capture(t)
	a.State = dir
	own, err := openOwner(a, ownerOptions{role: "build", sandbox: sandboxFlags{NoSpawner: true}})
	if err == nil {
		err = own.admit()
	}
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	err = a.connect(t.Context(), ownerOptions{role: "build", repeat: true}, func(*daemon.Client) error {
		if calls++; calls > 10 {
			return errors.New("asked for ever")
		}
		return daemon.ErrGone
	})
	if !errors.Is(err, daemon.ErrGone) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if err := own.close(t.Context()); err != nil {
		t.Error(err)
	}
}
