package builder_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/store"
)

// spawners are the pids of this process's spawners.
func spawners(t *testing.T) []int {
	t.Helper()
	// That of an earlier test may still be about to end.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if pids := spawnersNow(t); len(pids) == 1 || time.Now().After(deadline) {
			return pids
		}
	}
}

func spawnersNow(t *testing.T) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		status, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", os.Getpid())) {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Dir(f) + "/cmdline")
		if err != nil || !strings.HasPrefix(string(cmdline), "storefs-spawner") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// A spawner that is killed takes its builders with it, and another takes its place.
func TestSpawnerKilled(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	w.Built(w.Job("first", `echo > $out`, nil)).Release()
	before := spawners(t)
	if len(before) != 1 {
		t.Fatalf("spawners: %v", before)
	}
	mark := fmt.Sprintf("%d.%d", 100_000+os.Getpid(), time.Now().UnixNano()%1e9)
	started := make(chan struct{}, 3)
	var group sync.WaitGroup
	for i := range 3 {
		job := w.Job(fmt.Sprintf("victim-%d", i), `(setsid sleep `+mark+` &); echo started; sleep `+mark, func(j *builder.Job) {
			j.Log = func([]byte) { started <- struct{}{} }
		})
		group.Go(func() {
			_, err := w.Builder.Build(t.Context(), job)
			var f *store.Failure
			if !errors.As(err, &f) || f.Cause != store.CauseSystem || !strings.Contains(f.Message, "has died") {
				t.Errorf("error %v", err)
			}
		})
	}
	for range 3 {
		<-started
	}
	if err := unix.Kill(before[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	if left := buildertest.Running(mark); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	w.Built(w.Job("last", `echo > $out`, nil))
	if after := spawners(t); len(after) != 1 || after[0] == before[0] {
		t.Errorf("spawners: %v after %v", after, before)
	}
}

// Whenever a spawner is killed, each build succeeds or says why it cannot, and no builder
// begins twice in what is left of the first time.
func TestSpawnerKilledAtAnyMoment(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	w.Built(w.Job("first", `echo > $out`, nil)).Release()
	if len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	granted := make(chan struct{})
	close(granted)
	built, lost := 0, 0
	for i := range 60 {
		job := w.Job("any", `if [ -e begun ]; then echo > twice; fi; echo > begun; echo > $out; if [ -e twice ]; then exit 22; fi`, func(j *builder.Job) {
			if i%2 == 1 {
				j.Turn = &builder.Turn{Granted: granted}
			}
		})
		pids := spawnersNow(t)
		ended := make(chan error, 1)
		go func() {
			r, err := w.Builder.Build(t.Context(), job)
			if err == nil {
				r.Release()
			}
			ended <- err
		}()
		// No moment is missed for ever: builds take a few milliseconds.
		for end := time.Now().Add(time.Duration(i) * 100 * time.Microsecond); time.Now().Before(end); {
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
		var f *store.Failure
		switch err := <-ended; {
		case err == nil:
			built++
		case errors.As(err, &f) && f.Cause == store.CauseSystem && strings.Contains(f.Message, "may have begun"):
			lost++
		default:
			t.Errorf("after %d: %v", i, err)
		}
		// One that is there before the next is killed.
		w.Built(w.Job("next", `echo > $out`, nil)).Release()
	}
	if built == 0 {
		t.Errorf("none of %d was built", lost)
	}
	t.Logf("%d were built, %d were lost", built, lost)
}

// What is more than a spawner takes is refused as what the kernel refuses, and harms
// nobody.
func TestLaunchTooLong(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	w.Built(w.Job("first", `echo > $out`, nil)).Release()
	before := spawners(t)
	granted := make(chan struct{})
	close(granted)
	for _, turn := range []*builder.Turn{nil, {Granted: granted}} {
		f := w.Failed(w.Job("long", `echo > $out`, func(j *builder.Job) {
			buildertest.Setenv(j.Derivation, "long", strings.Repeat("x", 64<<20))
			j.Turn = turn
		}))
		if f.Cause != store.CauseBuilder || !strings.Contains(f.Message, "cannot execute the builder "+f.Builder+": argument list too long") {
			t.Errorf("failure: %s", f.Text())
		}
	}
	w.Built(w.Job("last", `echo > $out`, nil)).Release()
	if after := spawners(t); !slices.Equal(after, before) {
		t.Errorf("spawners: %v after %v", after, before)
	}
}

// Builds that are cancelled at any moment end, and hold nothing up.
func TestCancelledAtAnyMoment(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	job := w.Job("cancelled", `echo > $out; sleep 100`, nil)
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
		start := time.Now()
		if _, err := w.Builder.Build(ctx, job); !errors.Is(err, store.ErrCancelled) {
			t.Errorf("error %v", err)
		}
		cancel()
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("it took %s", took)
		}
	}
	w.Built(w.Job("after", `ls -A $NIX_STORE | wc -l > $out; ls -A /build /tmp`, nil))
	if n := len(spawners(t)); n != 1 {
		t.Errorf("%d spawners", n)
	}
}

// The builder has the limit on open files that this process was started with, and
// not what Go makes of it.
func TestFileLimit(t *testing.T) {
	var l unix.Rlimit
	if os.Getenv(againVariable) == "" {
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
		cmd := again(t, "^TestFileLimit$", 0, nil)
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -S -n 500; exec "$@"`, "sh", cmd.Path, cmd.Args[1], cmd.Args[2], cmd.Args[3]}
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFileLimit")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	for way, edit := range ways() {
		w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
			edit(o)
			return local(t, o)
		})
		if got := w.Text(w.Built(w.Job("limit", `ulimit -S -n > $out`, nil))); got != "500\n" {
			t.Errorf("%s: %s", way, got)
		}
	}
}

// A spawner does with fewer descriptors than it would have room for.
func TestSpawnerWithFewFiles(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		for _, limit := range []string{"400", "1024", "1026"} {
			cmd := again(t, "^TestSpawnerWithFewFiles$", 0, nil)
			cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -n ` + limit + `; exec "$@"`, "sh", cmd.Path, cmd.Args[1], cmd.Args[2], cmd.Args[3]}
			if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestSpawnerWithFewFiles")) {
				t.Errorf("%s: %v\n%s", limit, err, out)
			}
		}
		return
	}
	w := buildertest.NewWorld(t, local)
	w.Built(w.Job("few", `echo > $out`, nil))
	if n := len(spawners(t)); n != 1 {
		t.Errorf("%d spawners", n)
	}
}

// What a spawner that may have no descriptor more would need one for is built without it,
// and it harms nobody.
func TestSpawnerWithoutDescriptors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to set the limit")
	}
	w := buildertest.NewWorld(t, openSpare)
	started, ended := make(chan struct{}, 1), make(chan error, 1)
	other := w.Job("other", `mkfifo /build/end; echo started; read -r end < /build/end; echo > $out`, func(j *builder.Job) {
		j.Log = func([]byte) { started <- struct{}{} }
	})
	go func() {
		r, err := w.Builder.Build(t.Context(), other)
		if err == nil {
			r.Release()
		}
		ended <- err
	}()
	<-started
	pids := spawners(t)
	if len(pids) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4, Max: limit.Max}, nil); err != nil {
		t.Fatal(err)
	}
	granted := make(chan struct{})
	close(granted)
	for _, turn := range []*builder.Turn{nil, {Granted: granted}} {
		w.Built(w.Job("job", `echo > $out`, func(j *builder.Job) { j.Turn = turn })).Release()
	}
	if err := unix.Prlimit(pids[0], unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	w.Built(w.Job("job", `echo > $out`, nil)).Release()
	fifos, err := filepath.Glob(w.Options.Spare + "/*/build/end")
	if err != nil || len(fifos) != 1 {
		t.Fatalf("%v %v", fifos, err)
	}
	if err := os.WriteFile(fifos[0], []byte("end\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the other build: %v", err)
	}
	if after := spawners(t); !slices.Equal(after, pids) {
		t.Errorf("spawners: %v after %v", after, pids)
	}
}

// The builder is woken as exactly as this process, and not as a spawner's own threads.
func TestTimerSlack(t *testing.T) {
	want, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	const idle = "10000000\n"
	for way, edit := range ways() {
		t.Run(way, func(t *testing.T) {
			w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				return local(t, o)
			})
			if got := w.Text(w.Built(w.Job("slack", `read -r slack < /proc/self/timerslack_ns; echo $slack > $out`, nil))); got != string(want) {
				t.Errorf("%s, want %s", got, want)
			}
			if os.Geteuid() != 0 { // who is not may not look into others
				return
			}
			for _, pid := range spawnersNow(t) {
				if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid)); err != nil || string(got) != idle {
					t.Errorf("the spawner's: %s %v", got, err)
				}
				// And one more's, soon: all others are waited for. That one may start others
				// later, with its own, as one has it here: they are found while builds begin.
				for _, later := range []bool{false, true} {
					if later {
						threads := threadsOf(t, pid)
						if err := os.WriteFile("/proc/"+threads[len(threads)-1]+"/timerslack_ns", []byte(idle), 0); err != nil {
							t.Fatal(err)
						}
					}
					for end := time.Now().Add(time.Minute); ; w.Built(w.Job("slack", `echo > $out`, nil)) {
						threads, slow := threadsOf(t, pid), 0
						for _, tid := range threads {
							switch got, err := os.ReadFile("/proc/" + tid + "/timerslack_ns"); {
							case err == nil && string(got) == idle:
								slow++
							case errors.Is(err, os.ErrNotExist): // it has ended meanwhile
							case err != nil || string(got) != string(want):
								t.Errorf("of thread %s of the spawner: %s %v", tid, got, err)
							}
						}
						if slow == 2 && len(threads) >= 4 {
							break
						}
						if time.Now().After(end) {
							t.Errorf("%d of %d threads of the spawner are slow, want 2", slow, len(threads))
							break
						}
					}
				}
			}
		})
	}
}

// threadsOf are the ids of the threads of a process.
func threadsOf(t *testing.T, pid int) []string {
	t.Helper()
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = filepath.Base(list[i])
	}
	return list
}

// The table of descriptors is as large from the beginning on as it will have to be: to
// make it larger waits for RCU.
func TestSpawnerTable(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2048 {
		t.Skipf("no process may have more than %d files here: %v", limit.Cur, err)
	}
	w := buildertest.NewWorld(t, local)
	w.Built(w.Job("one", `echo > $out`, nil))
	pids := spawners(t)
	if len(pids) != 1 {
		t.Fatalf("%d spawners", len(pids))
	}
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "\nFDSize:\t")
		if size, err := strconv.Atoi(strings.SplitN(rest, "\n", 2)[0]); err != nil || size < 1024 {
			t.Errorf("it has room for %d descriptors: %v", size, err)
		}
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/1023", pid)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what made it so large is open still: %v", err)
		}
	}
}
