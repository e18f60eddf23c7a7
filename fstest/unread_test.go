package fstest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// unread starts a command whose output nobody reads; the returned function waits for
// its end, and is its exit status, -1 if a signal was its end.
func (l *lab) unread(args ...string) func() int {
	l.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cmd.Process.Kill() })
	return func() int {
		_ = cmd.Wait()
		return cmd.ProcessState.Sys().(syscall.WaitStatus).ExitStatus()
	}
}

// A command that others use goes on for them when nobody reads any more what it says
// itself.
func TestNobodyReadsTheOwner(t *testing.T) {
	l := newLab(t)
	own, releaseOwn := l.held("own", "echo hello; mkdir $out")
	other, release := l.held("other", "mkdir $out")
	file := l.star("a.star", own+other)
	status := l.unread("build", "-j2", "-L", l.gates(), file+":own")
	waitFor(t, "the owner", func() bool { _, err := os.Stat(l.State + "/socket"); return err == nil })
	client := l.command("build", file+":other")
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "both builds", func() bool { return strings.Contains(strings.Join(l.ok("status"), "\n"), "goals: 2 running") })
	releaseOwn()
	waitFor(t, "the owner's output", func() bool {
		outs, _ := filepath.Glob(l.State + "/real/*-own")
		return len(outs) == 1
	})
	release()
	if err := client.Wait(); err != nil {
		t.Errorf("the other command: %v", err)
	}
	if got := status(); got != 141 {
		t.Errorf("the owner: exit status %d, want 141", got)
	}
}

// Whoever watches ends then, also as the owner that nobody else uses.
func TestNobodyReadsWhoWatches(t *testing.T) {
	l := newLab(t)
	for _, args := range [][]string{{"status", "--watch"}, {"status", "--watch", "--json"}} {
		if status := l.unread(args...); status() != 141 {
			t.Errorf("%v: not exit status 141", args)
		}
	}
}
