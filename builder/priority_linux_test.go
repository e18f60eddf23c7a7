package builder_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/builder/buildertest"
)

// What nobody waits for has the lowest priority, until somebody does.
func TestPriority(t *testing.T) {
	// Field 41 of stat is the policy: 3 is SCHED_BATCH, the one of builds, 5 SCHED_IDLE. What is
	// below another shell, which was there before, counts.
	const script = `
nested() {
	set -- $(cat /proc/self/stat)
	echo ${41}
}
mkfifo ask tell
while read x <ask; do nested >tell; done &
for i in $(seq 500); do
	set -- $(cat /proc/self/stat)
	policy=${41}
	echo >ask; read below <tell
	group=$(cat /proc/self/autogroup 2>/dev/null || echo none nice 0)
	echo process $policy below $below session ${group##* }
	if test "$policy $below ${group##* }" != "3 3 0"; then
		lowered=yes
	elif test "$lowered"; then
		break
	fi
	sleep 0.02
done
kill $!
echo > $out`
	w := buildertest.NewWorld(t, local)
	for _, background := range []bool{false, true} {
		var mu sync.Mutex
		var lines []string
		wanted := make(chan struct{})
		// The kernel lets others than the superuser wait before they change that of a session.
		atOnce := !background || !sessions() && os.Getenv(againVariable) != ""
		job := w.Job("priority", script, func(j *builder.Job) {
			if background {
				j.Wanted = wanted
			}
			if atOnce {
				buildertest.Setenv(j.Derivation, "lowered", "yes")
			}
			lowered := 0
			j.Log = func(line []byte) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, string(line))
				if string(line) != "process 3 below 3 session 0" {
					if lowered++; lowered == 3 {
						close(wanted)
					}
				}
			}
		})
		w.Built(job)
		mu.Lock()
		first, last := lines[0], lines[len(lines)-1]
		mu.Unlock()
		if last != "process 3 below 3 session 0" {
			t.Errorf("background %v: in the end: %q", background, last)
		}
		switch {
		case !background && len(lines) > 1:
			t.Errorf("one that is waited for began with %q", first)
		case background && os.Geteuid() == 0 && os.Getenv(againVariable) == "" && !strings.HasPrefix(first, "process 5 below 5 "):
			t.Errorf("one that nobody waits for began with %q", first)
		case background && os.Geteuid() == 0 && os.Getenv(againVariable) == "" && sessions() && !strings.HasSuffix(first, " session 19"):
			t.Errorf("one that nobody waits for began with %q", first)
		case background && sessions() && !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, " session 19") }):
			t.Errorf("one that nobody waits for had %q", lines)
		}
	}
}

// The superuser of a container may lower a priority, and not raise it again.
func TestPriorityAsRootOfOneUser(t *testing.T) {
	pass(t, again(t, "^TestPriority$", 0, rootOfOneUser()))
}

// What somebody wants at once gets its share although the kernel changes the priority of
// a session only once in a while.
func TestPriorityWantedAtOnce(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		const uid = 12345
		pass(t, again(t, "^TestPriorityWantedAtOnce$", uid, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}))
		return
	}
	const script = `
for i in $(seq 100); do
	group=$(cat /proc/self/autogroup 2>/dev/null || echo none nice 0)
	test "${group##* }" = 0 && break
	sleep 0.05
done
echo "${group##* }" > $out`
	w := buildertest.NewWorld(t, local)
	wanted := make(chan struct{})
	close(wanted)
	r := w.Built(w.Job("wanted", script, func(j *builder.Job) { j.Wanted = wanted }))
	if got := w.Text(r); got != "0\n" {
		t.Errorf("the priority of its session is %s", got)
	}
}

// sessions reports whether this kernel schedules sessions against each other.
func sessions() bool {
	_, err := os.Stat("/proc/self/autogroup")
	return err == nil
}

// policies are those of all threads of this process.
func policies(t *testing.T) map[uint32]int {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint32]int{}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if a, err := unix.SchedGetAttr(tid, 0); err == nil {
			found[a.Policy]++
		}
	}
	return found
}

// A process that does nothing but build is scheduled as what it builds is, in all of its
// threads, unless whoever has started it chose something else.
func TestBatch(t *testing.T) {
	const env = "STOREFS_TEST_BATCH"
	if os.Getenv(env) == "" {
		for _, policy := range []uint32{unix.SCHED_NORMAL, unix.SCHED_IDLE} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestBatch$")
			cmd.Env = append(os.Environ(), fmt.Sprint(env, "=", policy))
			runtime.LockOSThread() // and never again another's
			a, err := unix.SchedGetAttr(0, 0)
			if err != nil {
				t.Fatal(err)
			}
			a.Policy = policy
			if err := unix.SchedSetAttr(0, a, 0); err != nil {
				t.Fatal(err)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("policy %d: %v: %s", policy, err, out)
			}
		}
		return
	}
	want := uint32(unix.SCHED_BATCH)
	if os.Getenv(env) != fmt.Sprint(unix.SCHED_NORMAL) {
		want = unix.SCHED_IDLE
	}
	var there, done sync.WaitGroup
	leave := make(chan struct{})
	threads := func() {
		for range 8 {
			there.Add(1)
			done.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				there.Done()
				<-leave
			})
		}
		there.Wait()
	}
	threads()
	builder.Batch()
	threads()
	if found := policies(t); len(found) != 1 || found[want] < 16 {
		t.Errorf("threads by their policies: %v, want all %d", found, want)
	}
	close(leave)
	done.Wait()
}
