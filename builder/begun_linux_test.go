package builder

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"storefs/store"
	"storefs/storeexpr"
)

// What is said not to have begun has not, in whichever order builds begin. Of those that
// are near each other, what has not is said not to have.
func TestBegunTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, marked := new(begunTable), make(map[uint64]bool)
		largest := uint64(0)
		for _, id := range rapid.SliceOf(rapid.Uint64Range(1, 3*begunPlaces)).Draw(t, "ids") {
			table.mark(id)
			marked[id], largest = true, max(largest, id)
		}
		for id := uint64(1); id <= 3*begunPlaces; id++ {
			if marked[id] && !table.may(id) {
				t.Fatalf("%d has begun, and may not", id)
			}
			if !marked[id] && table.may(id) && id+begunPlaces > largest {
				t.Fatalf("%d has not begun, and may, where the last is %d", id, largest)
			}
		}
	})
}

// spawnerPid is the pid of the one spawner of this process.
func spawnerPid(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range files {
		status, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", os.Getpid())) {
			continue
		}
		name, err := os.ReadFile(filepath.Dir(f) + "/cmdline")
		if err != nil || !strings.HasPrefix(string(name), spawnerName) {
			continue
		}
		if found != 0 {
			t.Fatal("there are several spawners")
		}
		if found, err = strconv.Atoi(filepath.Base(filepath.Dir(f))); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Fatal("there is no spawner")
	}
	return found
}

// unread waits until there is something that a spawner has not read, or nothing.
func unread(t *testing.T, s *spawner, something bool) {
	t.Helper()
	raw, err := s.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		var n int
		var e error
		err := raw.Control(func(fd uintptr) { n, e = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(err, e); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		builds := len(s.builds)
		s.mu.Unlock()
		if n > 0 == something && builds > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes of %d builds are not read", n, builds)
		}
	}
}

// stopSpawner has the one spawner stand still, and returns its pid.
func stopSpawner(t *testing.T) int {
	t.Helper()
	pid := spawnerPid(t)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			t.Error(err)
		}
		moving := slices.ContainsFunc(files, func(f string) bool {
			text, err := os.ReadFile(f)
			return err == nil && !bytes.Contains(text, []byte(") T "))
		})
		if !moving {
			return pid
		}
		if time.Now().After(end) {
			t.Error("it does not stop")
			return pid
		}
	}
}

// A build whose builder has not begun when its spawner is killed is begun by another, also
// if the kernel had taken what it is for the one that was killed.
func TestSpawnerDiesBeforeTheBuilderBegins(t *testing.T) {
	if !canClone {
		t.Skip("there is no spawner for this architecture")
	}
	dir := t.TempDir()
	drv, err := store.MakePath("/nix/store", "test", store.HashOf(store.SHA256, nil), "x.drv")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what               string
		held, read, always bool
		spawners           int32
	}{
		{"it has not read of it", false, false, false, 2},
		{"it has not read of it, held", true, false, false, 2},
		{"it has not read that it may begin", true, true, false, 2},
		{"so do others", false, false, true, 2},
		{"so do others, held", true, false, true, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			l, err := New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var starts atomic.Int32
			started := make(chan *spawner, 10)
			l.spawner.start = func(c2 spawnerConfig, ids identity) (*spawner, error) {
				s, err := startSpawner(c2, ids)
				if err == nil && (starts.Add(1) == 1 && !c.read || c.always) {
					stopSpawner(t)
				}
				if err == nil {
					started <- s
				}
				return s, err
			}
			job := Job{Drv: drv, Derivation: &storeexpr.Derivation{Platform: hostSystem(), Builder: "/none"}}
			granted := make(chan struct{})
			if c.held {
				job.Turn = &Turn{Granted: granted}
			}
			ended := make(chan error, 1)
			go func() {
				_, err := l.Build(t.Context(), job)
				ended <- err
			}()
			for killed := int32(0); killed < 1 || c.always && killed < c.spawners; killed++ {
				var s *spawner
				select {
				case s = <-started:
				case err := <-ended:
					t.Fatalf("after %d spawners: %v", killed, err)
				}
				unread(t, s, !c.read)
				pid := spawnerPid(t)
				if c.read {
					pid = stopSpawner(t)
				}
				if c.held && killed == 0 {
					close(granted)
				}
				if c.held {
					unread(t, s, true)
				}
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				<-s.ended
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "cannot execute the builder /none") {
				t.Errorf("%v", err)
			}
			if n := starts.Load(); n != c.spawners {
				t.Errorf("%d spawners were started, want %d", n, c.spawners)
			}
		})
	}
}
