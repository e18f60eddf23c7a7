package builder_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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

// waiting are the processes of the one spawner that wait for a build, by pid, with
// their status. There are as many as the processors make it.
func waiting(t *testing.T) map[int]string {
	t.Helper()
	spawner := spawners(t)
	switch {
	case os.Geteuid() != 0:
		t.Skip("only root may look into them")
	case len(spawner) != 1:
		t.Fatalf("spawners: %v", spawner)
	}
	deadline := time.Now().Add(time.Minute)
	for n := -1; ; time.Sleep(20 * time.Millisecond) {
		files, err := filepath.Glob("/proc/[0-9]*/status")
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[int]string)
		for _, f := range files {
			status, err := os.ReadFile(f)
			if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", spawner[0])) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			// In recvmsg: it has done all that it does by itself.
			if call, err := os.ReadFile(filepath.Dir(f) + "/syscall"); err == nil && strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_RECVMSG, " 0x3 ")) {
				found[pid] = string(status)
			}
		}
		if len(found) == n && n > 0 {
			return found
		}
		if n = len(found); time.Now().After(deadline) {
			t.Fatalf("%d processes wait", n)
		}
	}
}

// spawnerFiles is how many files the spawner has open.
func spawnerFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", spawners(t)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// A process that waits for a build has no rights, no files but a socket, and
// nothing of a build that was.
func TestWaiting(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	if w.Built(w.Job("first", `echo > $out; echo x > /dev/shm/x; echo x > /tmp/x`, nil)).Release(); len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	for range 5 { // until as many wait for its inputs as may
		waiting(t)
		w.Built(w.Job("next", `echo > $out; echo x > /dev/shm/x`, nil)).Release()
	}
	waiting(t)
	files := spawnerFiles(t)
	seen := make(map[int]bool)
	for range 5 {
		for pid, status := range waiting(t) {
			if seen[pid] {
				continue // it was not wanted yet
			}
			seen[pid] = true
			for _, want := range []string{
				`CapInh:\t0+`, `CapPrm:\t0+`, `CapEff:\t0+`, `CapBnd:\t0+`, `CapAmb:\t0+`, `NoNewPrivs:\t1`, `Seccomp:\t2`, `NSpid:\t\d+\t\d+\t1`,
			} {
				if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(status) {
					t.Errorf("not %s in\n%s", want, status)
				}
			}
			dir := fmt.Sprintf("/proc/%d/", pid)
			fds, err := os.ReadDir(dir + "fd")
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, fd := range fds {
				names = append(names, fd.Name())
			}
			if !slices.Equal(names, []string{"0", "1", "2", "3"}) {
				t.Errorf("descriptors %v", names)
			}
			mounts, err := os.ReadFile(dir + "mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			// Where it has inputs, it has them all.
			has := []int{0, 0}
			for _, place := range []string{"/build", "/tmp", string(w.Options.Store), string(w.Shell.Path), string(w.Probe.Path)} {
				has[min(1, strings.Count(string(mounts), " "+place+" "))]++
			}
			if has[0] > 0 && has[1] > 0 {
				t.Errorf("some of its mounts are missing:\n%s", mounts)
			}
			for _, place := range []string{"build", "tmp"} {
				if left, err := os.ReadDir(dir + "root/" + place); err != nil || len(left) > 0 {
					t.Errorf("in /%s: %v %v", place, left, err)
				}
			}
			if left, err := os.ReadDir(dir + "root/dev/shm"); err != nil || len(left) > 0 {
				t.Errorf("in /dev/shm: %v %v", left, err)
			}
		}
		w.Built(w.Job("next", `echo > $out; echo x > /dev/shm/x`, nil)).Release()
	}
	if len(seen) < 5 {
		t.Errorf("%d processes waited for 5 builds", len(seen))
	}
	waiting(t)
	// What the last one had goes after its end.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		now := spawnerFiles(t)
		if now == files {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("the spawner has %d files open, and had %d", now, files)
			break
		}
	}
}

// killAndSee kills a process of which nobody takes notice before it is wanted.
func killAndSee(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || strings.Contains(string(status), "\nState:\tZ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not die")
		}
	}
}

// One that died while it waited is not missed.
func TestWaitingKilled(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	if w.Built(w.Job("first", `echo > $out`, nil)).Release(); len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	before := spawners(t)
	for range 3 {
		for pid := range waiting(t) {
			killAndSee(t, pid)
		}
		for range 4 {
			w.Built(w.Job("next", `echo > $out`, nil)).Release()
		}
	}
	if after := spawners(t); !slices.Equal(after, before) {
		t.Errorf("spawners: %v after %v", after, before)
	}
}

// What is mounted for a build is the next one's if it has left that alone, and only
// then.
func TestOwnMountsAgain(t *testing.T) {
	trace := compileTrace(t, t.TempDir())
	w := buildertest.NewWorld(t, openSpare)
	program := w.Add("trace", func(p string) { buildertest.CopyFile(t, trace, p) })
	// run returns when /dev/shm and /dev/pts were mounted, and what they look like.
	run := func(script string) (when, what string) {
		t.Helper()
		r := w.Built(w.Job("job", `exec > $out; $trace age | sed 1d; stat -c '%n %a %u %g %h %s' /dev/shm /dev/pts /dev/pts/ptmx
			`+script, func(j *builder.Job) {
			j.Inputs = append(j.Inputs, program)
			buildertest.Setenv(j.Derivation, "trace", string(program.Path))
		}))
		defer r.Release()
		when, what, _ = strings.Cut(w.Text(r), "\n")
		return when, what
	}
	_, want := run("")
	if len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	for _, c := range []struct {
		script string // not everybody's /dev/shm is the builder's
		stays  bool
	}{
		{"true", true},
		{"echo > /dev/shm/x; rm /dev/shm/x", false},
		{"echo > /dev/shm/x", false},
		{"ln -s / /dev/shm/x", false},
		{"chmod 700 /dev/shm && chmod 1777 /dev/shm || echo > /dev/shm/x", false},
		{"touch -r /dev/shm /tmp/t; echo > /dev/shm/x; rm /dev/shm/x; touch -r /tmp/t /dev/shm", false},
		{"chmod 700 /dev/pts && chmod 755 /dev/pts || echo > /dev/shm/x", false},
		{"chmod 600 /dev/pts/ptmx || echo > /dev/shm/x", false},
		{"cat /dev/shm/none /dev/pts/none; stat /dev/shm; true", true},
	} {
		for range 4 { // the builds before may have left some that were seen
			run("true")
		}
		waiting(t)
		seen := make(map[string]bool)
		for range 4 {
			when, _ := run("true")
			seen[when] = true
			waiting(t)
		}
		if len(seen) > 2 {
			t.Errorf("before %q: mounted %d times for 4 builds", c.script, len(seen))
		}
		var touched []string
		for range 2 {
			when, what := run("(" + c.script + ") 2>/dev/null >&2 || true")
			if touched = append(touched, when); what != want {
				t.Errorf("before %q they are different:\n%s", c.script, difference(want, what))
			}
			waiting(t)
		}
		for range 4 {
			when, what := run("true")
			if what != want {
				t.Errorf("after %q they are different:\n%s", c.script, difference(want, what))
			}
			if slices.Contains(touched, when) && !c.stays {
				t.Errorf("after %q they are not mounted anew", c.script)
			}
			waiting(t)
		}
	}
}

// Builds with many inputs are put into the mount namespaces of earlier ones, where
// nothing shows that these were there, whatever they tried.
func TestMountNamespacesAgain(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	var inputs []store.Info
	for i := range 40 {
		inputs = append(inputs, w.AddText(fmt.Sprintf("input-%d", i), "text"))
	}
	// run returns the mount namespace of a build, and all that it mounts but for
	// numbers and the name of the scratch directory.
	run := func(inputs []store.Info, script string) (space, mounts string) {
		t.Helper()
		r := w.Built(w.Job("job", `readlink /proc/self/ns/mnt > $out
			sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //; s#/[^ ]*-[0-9]*/\(build\|tmp\|store\) #\1 #' /proc/self/mountinfo | sort >> $out
			ls -A /dev/shm /dev/pts /build /tmp >> $out
			`+script, func(j *builder.Job) { j.Inputs = append(j.Inputs, inputs...) }))
		defer r.Release()
		space, mounts, _ = strings.Cut(w.Text(r), "\n")
		return space, mounts
	}
	first, want := run(inputs, "")
	// Each line has the name twice.
	if n := strings.Count(want, "-input-"); n != 2*40 {
		t.Fatalf("%d inputs are mounted in\n%s", n/2, want)
	}
	spaces := map[string]int{first: 1}
	for i, script := range []string{
		"", "", "", // in two of them by turns
		`echo left > /dev/shm/left; mkdir /dev/shm/dir /tmp/dir /build/dir`,
		`umount /dev/shm; umount /proc; umount $NIX_STORE; mount -t tmpfs none /tmp; mount --bind /build /tmp; true`,
		`busybox unshare -r -m sh -c 'mount -t tmpfs none /tmp; umount /dev/shm; mount --bind /tmp /proc'; true`,
		`echo > /dev/shm/busy; exec 9< /dev/shm/busy; (cd /dev/shm; sleep 100) & true`,
		`sleep 100 < /dev/ptmx & true`,
		"",
	} {
		space, mounts := run(inputs, script)
		if mounts != want {
			t.Fatalf("before %d (%s) its mounts are different:\n%s", i, script, difference(want, mounts))
		}
		spaces[space]++
	}
	if len(spaces) > 4 {
		t.Errorf("mount namespaces of 10 builds: %v", spaces)
	}
	// Other inputs, in the end in scratch directories that had others, which
	// each set uses more than once.
	for i := range 33 {
		set := inputs[i/3 : i/3+30]
		_, mounts := run(set, "")
		if n := strings.Count(mounts, "-input-"); n != 2*30 {
			t.Fatalf("30 inputs: %d are mounted in\n%s", n/2, mounts)
		}
		for _, in := range set {
			if base := in.Path.Base(); !strings.Contains(mounts, "/"+base+" "+string(in.Path)+" ") {
				t.Fatalf("%s is not mounted in\n%s", base, mounts)
			}
		}
	}
	if _, mounts := run(inputs, ""); mounts != want {
		t.Errorf("after others its mounts are different:\n%s", difference(want, mounts))
	}
}

// User namespaces are for one build after the other, whatever their inputs, and never
// for two at a time.
func TestUserNamespacesAgain(t *testing.T) {
	w := buildertest.NewWorld(t, openSpare)
	var inputs []store.Info
	for i := range 20 {
		inputs = append(inputs, w.AddText(fmt.Sprintf("input-%d", i), "text"))
	}
	// run returns the user namespace of a build, and behind it how that maps users.
	run := func(first int, script string) string {
		r := w.Built(w.Job(fmt.Sprint("job-", first), `readlink /proc/self/ns/user > $out; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups >> $out; `+script, func(j *builder.Job) {
			j.Inputs = append(j.Inputs, inputs[first:first+3]...)
		}))
		defer r.Release()
		return w.Text(r)
	}
	want := ""
	seen := make(map[string]int)
	for i := range 12 {
		space, maps, _ := strings.Cut(run(i, "busybox unshare -r true; true"), "\n")
		seen[space]++
		if want == "" {
			want = maps
		}
		if maps != want {
			t.Errorf("it maps\n%s, and the first\n%s", maps, want)
		}
	}
	if len(spawners(t)) == 0 {
		t.Skip("there is no spawner for this architecture")
	}
	if len(seen) == 12 {
		t.Errorf("no user namespace was used again")
	}
	// At a time: none ends before the last one has begun.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	both := make(chan string, 8)
	var all sync.WaitGroup
	for i := range cap(both) {
		job := w.Job(fmt.Sprint("both-", i), `readlink /proc/self/ns/user; sleep 1000`, func(j *builder.Job) {
			j.Inputs = append(j.Inputs, inputs[i:i+3]...)
			j.Log = func(line []byte) { both <- string(line) }
		})
		all.Go(func() {
			if _, err := w.Builder.Build(ctx, job); !errors.Is(err, store.ErrCancelled) {
				t.Error(err)
				both <- "" // of one that failed
			}
		})
	}
	at := make(map[string]bool)
	for range cap(both) {
		at[<-both] = true
	}
	cancel()
	all.Wait()
	if len(at) != cap(both) {
		t.Errorf("%d builds at a time were in %d user namespaces", cap(both), len(at))
	}
}
