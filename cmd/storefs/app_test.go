package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

// A model of one command has of that what the model of all has.
func TestOneCommand(t *testing.T) {
	vars := kong.Vars{"state": "/s", "jobs": "2", "allow_other": "true"}
	var a app
	all, err := kong.New(&a.cli, kong.ExplicitGroups(groups()), vars)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range all.Model.Children {
		var a app
		option := a.oneCommand([]string{want.Name, "--help"})
		if option == nil {
			t.Errorf("%s is not found", want.Name)
			continue
		}
		one, err := kong.New(&a.shared, kong.ExplicitGroups(groups()), vars, option)
		if err != nil {
			t.Fatal(err)
		}
		got := one.Model.Children[0]
		if len(one.Model.Children) != 1 || got.Name != want.Name || got.Help != want.Help || got.Detail != want.Detail || got.Summary() != want.Summary() {
			t.Errorf("%s: %q, want %q", want.Name, got.Summary(), want.Summary())
		}
		if !slices.EqualFunc(got.Flags, want.Flags, func(a, b *kong.Flag) bool {
			return a.Help == b.Help && a.Default == b.Default && a.String() == b.String() && reflect.DeepEqual(a.Envs, b.Envs)
		}) {
			t.Errorf("%s: %v, want %v", want.Name, got.Flags, want.Flags)
		}
	}
	for _, args := range [][]string{nil, {"--help"}, {"nonsense"}, {"--state", "/s", "build"}} {
		if a.oneCommand(args) != nil {
			t.Errorf("%q has no command first", args)
		}
	}
}

// A system call that a signal has ended may return before it is known which signal that was.
func TestInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancelCause(context.Background())
		defer interrupt(nil)
		ended := fmt.Errorf("look: %w", unix.EINTR)
		if err := interrupted(ctx, unix.ENOENT); err != unix.ENOENT {
			t.Errorf("another error: %v", err)
		}
		if err := interrupted(ctx, ended); err != ended {
			t.Errorf("another signal: %v", err)
		}
		go func() {
			time.Sleep(20 * time.Millisecond)
			interrupt(errInterrupted)
		}()
		if err := interrupted(ctx, ended); !errors.Is(err, errInterrupted) {
			t.Errorf("our signal: %v", err)
		}
		if err := interrupted(ctx, nil); err != nil {
			t.Errorf("done before: %v", err)
		}
	})
}
