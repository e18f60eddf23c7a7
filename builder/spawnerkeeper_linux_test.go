package builder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What is short now is not short for ever: a spawner is tried again, and not for each
// build.
func TestSpawnerIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err   error
		again bool
	}{
		{fmt.Errorf("start a spawner: %w", diagnose("fork/exec /proc/self/exe: "+unix.EAGAIN.Error(), unix.EAGAIN)), true},
		{diagnose("clone", unix.ENOMEM), true},
		{fmt.Errorf("socketpair: %w", unix.EMFILE), true},
		{fmt.Errorf("start a spawner: %w", errKilled), true},
		{diagnose("clone", unix.EPERM), false},
		{errors.New("the trial of a sandbox ended with status 0x100"), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			tries, said, err := 0, 0, c.err
			k := &spawnerKeeper{
				start: func(spawnerConfig, identity) (*spawner, error) {
					tries++
					if err != nil {
						return nil, err
					}
					return &spawner{}, nil
				},
				say: func(string) { said++ },
			}
			for range 35 { // 3.5 s
				if k.get() != nil {
					t.Fatalf("%v: there is a spawner", c.err)
				}
				time.Sleep(100 * time.Millisecond)
			}
			want := 1
			if c.again {
				want = 4
			}
			if tries != want || said != 1 {
				t.Errorf("%v: it was tried %d times, want %d, and said %d times", c.err, tries, want, said)
			}
			time.Sleep(time.Second)
			err = nil
			if got := k.get() != nil; got != c.again {
				t.Errorf("%v: when it could be had, there is one: %v", c.err, got)
			}
		})
	}
}

// A spawner that is killed before it is ready says nothing about the next one.
func TestSpawnerKilledAtItsStart(t *testing.T) {
	if !canClone {
		t.Skip("there is no spawner for this architecture")
	}
	dir := t.TempDir()
	l, err := New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := l.spawner
	if k.get() == nil {
		t.Skip("there can be no spawner here")
	}
	k.close()
	k.off = false
	start, said, killed := k.start, "", false
	k.say = func(line string) { said = line }
	k.start = func(c spawnerConfig, ids identity) (*spawner, error) {
		stop := make(chan struct{})
		var killer sync.WaitGroup
		killer.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				killSpawners()
			}
		})
		s, err := start(c, ids)
		close(stop)
		killer.Wait()
		return s, err
	}
	for range 100 {
		if killed = k.get() == nil; killed {
			break
		}
		k.close()
		k.off = false
	}
	if !killed {
		t.Fatal("they are always ready before they can be killed")
	}
	if !strings.Contains(said, "start a spawner: it was killed by SIGKILL") {
		t.Errorf("said: %q", said)
	}
	k.mu.Lock()
	k.start, k.tried = start, k.tried.Add(-spawnerPause)
	k.mu.Unlock()
	if k.get() == nil {
		t.Error("there is no other one")
	}
}

// killSpawners kills what runs as a spawner of this process.
func killSpawners() {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for pid := range strings.FieldsSeq(string(text)) {
			name, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if n, err := strconv.Atoi(pid); err == nil && strings.HasPrefix(string(name), spawnerName) {
				_ = unix.Kill(n, unix.SIGKILL)
			}
		}
	}
}
