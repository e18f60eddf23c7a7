package builder_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/store"
)

// What the kernel counts for builders' user counts for us as well: no builder can take all
// of it. Nor can one that is the user that we are reach our control group.
func TestAllowance(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/user/max_inotify_instances")
	if err != nil {
		t.Fatal(err)
	}
	all, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for way, edit := range ways() {
		t.Run(way, func(t *testing.T) {
			w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				return local(t, o)
			})
			r := w.Built(w.Job("group", `$probe "control group" > $out`, nil))
			forbidden := strings.Contains(w.Text(r), unix.ENOSPC.Error())
			if own := os.Geteuid() != 0 || os.Getenv(againVariable) != ""; own != forbidden {
				t.Errorf("a namespace of its control group: %s", w.Text(r))
			}
			if all > 10_000 { // as in a container, where we do not know
				t.Skipf("there may be %d instances of inotify", all)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			last := make(chan string, 1)
			var done sync.WaitGroup
			done.Go(func() {
				defer close(last)
				_, err := w.Builder.Build(ctx, w.Job("inotify", `$probe inotify`, func(j *builder.Job) {
					j.Log = func(line []byte) { last <- string(line) }
				}))
				if !errors.Is(err, store.ErrCancelled) {
					t.Error(err)
				}
			})
			number, why, _ := strings.Cut(<-last, " ")
			if n, err := strconv.Atoi(number); err != nil || n > all/2 || n == 0 || why != unix.EMFILE.Error() {
				t.Errorf("a builder made %s of %d instances of inotify, and then: %s", number, all, why)
			}
			cancel()
			done.Wait()
		})
	}
}

func TestAllowanceAsUser(t *testing.T) {
	const uid = 12345
	pass(t, again(t, "^TestAllowance$", uid, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}))
	pass(t, again(t, "^TestAllowance$", 0, rootOfOneUser()))
}

// A builder that starts as many processes as it can ends neither us nor the spawner, nor
// what is built beside it.
func TestManyProcesses(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		const uid = 12346 // no other test's
		pass(t, again(t, "^TestManyProcesses$", uid, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}))
		return
	}
	var processes unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &processes); err != nil {
		t.Fatal(err)
	}
	processes.Max = min(processes.Max, 400)
	processes.Cur = processes.Max
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &processes); err != nil {
		t.Fatal(err)
	}
	w := buildertest.NewWorld(t, openSpare)
	w.Built(w.Job("before", `echo > $out`, nil)).Release()
	before := spawners(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	full := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		job := w.Job("many", `(while :; do sleep 1000 & done) 2>/dev/null; echo full; sleep 1000`, func(j *builder.Job) {
			j.Log = func([]byte) { close(full) }
		})
		if _, err := w.Builder.Build(ctx, job); !errors.Is(err, store.ErrCancelled) {
			t.Error(err)
		}
	})
	<-full
	for i := range 6 {
		w.Built(w.Job("other", `sleep 0 & wait; echo > $out`, func(j *builder.Job) {
			if i%2 == 0 {
				j.Wanted = make(chan struct{}) // it is a child of our own
			}
		})).Release()
	}
	if after := spawners(t); !slices.Equal(before, after) {
		t.Errorf("spawners: %v after %v", after, before)
	}
	cancel()
	done.Wait()
}
