package builder_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/builder/buildertest"
	"storefs/store"
)

// traceVariable names a compiled testdata/trace for tests that run again.
const traceVariable = "STOREFS_TEST_TRACE"

func compileTrace(t *testing.T, dir string) string {
	t.Helper()
	if p := os.Getenv(traceVariable); p != "" {
		return p
	}
	program := filepath.Join(dir, "trace")
	cmd := exec.Command(buildertest.Need(t, "go"), "build", "-o", program, "./testdata/trace")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile trace: %v\n%s", err, out)
	}
	return program
}

// openSpare opens a builder that uses again what it can.
func openSpare(t testing.TB, o *builder.Options) buildertest.Builder {
	ways()["spare"](o)
	return local(t, o)
}

// TestNothingIsCarried has builders that leave traces of all kinds, and one after
// each that looks for them: what it sees is what the first build of all saw.
func TestNothingIsCarried(t *testing.T) {
	trace := compileTrace(t, t.TempDir())
	t.Run("few inputs", func(t *testing.T) { testNothingIsCarried(t, trace, 0) })
	// They keep their mount namespaces.
	t.Run("many inputs", func(t *testing.T) { testNothingIsCarried(t, trace, 30) })
}

func testNothingIsCarried(t *testing.T, trace string, more int) {
	w := buildertest.NewWorld(t, openSpare)
	var inputs []store.Info
	for i := range more {
		inputs = append(inputs, w.AddText(fmt.Sprintf("input-%d", i), "text"))
	}
	program := w.Add("trace", func(p string) { buildertest.CopyFile(t, trace, p) })
	link := w.Add("link", func(p string) {
		if err := os.Symlink("/etc/passwd", p); err != nil {
			t.Fatal(err)
		}
	})
	// run runs the program, and returns what it printed and the names of the
	// network and the scratch directory that it had.
	run := func(t *testing.T, what string) (seen, network, dir string) {
		t.Helper()
		world := *w
		world.T = t
		r := world.Built(world.Job("job", `sed -n 's|.*-\([0-9]*\)/build /build .*|\1|p' /proc/self/mountinfo; $trace "$what"; echo > $out`, func(j *builder.Job) {
			j.Inputs = append(append(j.Inputs, program, link), inputs...)
			buildertest.Setenv(j.Derivation, "trace", string(program.Path))
			buildertest.Setenv(j.Derivation, "what", what)
		}))
		text, err := os.ReadFile(r.LogFile)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		lines := strings.SplitN(string(text), "\n", 3)
		return lines[2], lines[1], lines[0]
	}
	want, _, _ := run(t, "look")
	for _, part := range []string{"\nself/net/dev ", "\nsys/net/ipv4/", "\nsysvipc/shm", "queue: no such file", "abstract name: <nil>", "key: false function not implemented"} {
		if !strings.Contains(want, part) {
			t.Fatalf("what it looks at does not contain %q:\n%s", part, want)
		}
	}
	// The kernel may not tell what was made in an IPC namespace: then it goes with no network.
	withIPC := strings.Contains(want, "\nsys/kernel/shm_next_id 0\n")
	networks, spoilt := make(map[string]int), make(map[string]string)
	for _, c := range []struct {
		what         string
		network, dir bool // they are spoilt
	}{
		{"look", false, false},
		{"tcp", true, false},
		{"tcp6", true, false},
		{"udp", true, false},
		{"refused", true, false},
		{"no route", true, false},
		{"no route6", true, false},
		{"group", false, false},
		{"group6", true, false},
		{"flow label", true, false},
		{"flight", false, false},
		{"keys", false, false},
		{"ipc", withIPC, false},
		{"memory that was", withIPC, false},
		{"semaphores that were", withIPC, false},
		{"messages that were", withIPC, false},
		{"queue that was", withIPC, false},
		{"no objects", false, false},
		{"files", false, false},
		{"rename", false, false},
		{"mode", false, true},
		{"many files", false, true},
		{"flags", false, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, network, dir := run(t, c.what)
			networks[network]++
			seen, nextNetwork, nextDir := run(t, "look")
			if seen != want {
				t.Errorf("what a later build sees is different:\n%s", difference(want, seen))
			}
			networks[nextNetwork]++
			for _, n := range []string{network, nextNetwork} {
				if by, ok := spoilt[n]; ok {
					t.Errorf("network %s was used after %s", n, by)
				}
			}
			if c.network {
				spoilt[network] = c.what
			}
			// The file system may have no sizes or flags of directories.
			if c.dir != (nextDir != dir) && (!c.dir || c.what == "mode") {
				t.Errorf("scratch directory %s after %s", nextDir, dir)
			}
		})
	}
	again := func() bool {
		for n, times := range networks {
			if _, ok := spoilt[n]; !ok && times > 1 {
				return true
			}
		}
		return false
	}
	// More may wait than there were builds.
	for range 200 {
		if again() {
			break
		}
		_, network, _ := run(t, "look")
		networks[network]++
	}
	if !again() {
		t.Errorf("no network was used again: %v", networks)
	}
}

// Builders that are root outside of a container can change no setting of the machine, nor
// one of their namespaces, which the next build may have. It is only tried to open them.
func TestMachineSettings(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		pass(t, again(t, "^TestMachineSettings$", 0, rootOfOneUser()))
		return
	}
	if f, err := os.OpenFile("/proc/sys/kernel/core_pattern", os.O_WRONLY, 0); err != nil {
		t.Errorf("what this is about is closed to everybody: %v", err)
	} else {
		f.Close()
	}
	for way, edit := range ways() {
		t.Run(way, func(t *testing.T) {
			w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				return local(t, o)
			})
			for range 3 {
				r := w.Built(w.Job("machine", `
for f in sys/kernel/core_pattern sys/kernel/modprobe sys/kernel/shmmax sys/kernel/hostname sys/fs/mqueue/msg_max sys/net/core/somaxconn sysrq-trigger; do
	if [ -e /proc/$f ] && ( : >> /proc/$f ); then echo $f; exit 1; fi
done
echo 5 > /proc/self/oom_score_adj
echo > $out`, nil))
				r.Release()
			}
		})
	}
}

// Where few files may be open, what waits for the next builds does not keep many from
// running at a time.
func TestFewDescriptors(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		pass(t, again(t, "^TestFewDescriptors$", 0, nil))
		return
	}
	const limit, builds = 512, 34
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	w := buildertest.NewWorld(t, openSpare)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	var running atomic.Int32
	for i := range builds {
		job := w.Job(fmt.Sprintf("job-%d", i), `echo; sleep 1000`, func(j *builder.Job) {
			j.Log = func([]byte) {
				if running.Add(1) == builds {
					cancel()
				}
			}
		})
		all.Go(func() {
			defer cancel()
			if _, err := w.Builder.Build(ctx, job); !errors.Is(err, store.ErrCancelled) {
				t.Errorf("beside %d others: %v", running.Load(), err)
			}
		})
	}
	all.Wait()
}

// Nor does it keep any from being built where there are less.
func TestVeryFewDescriptors(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		pass(t, again(t, "^TestVeryFewDescriptors$", 0, nil))
		return
	}
	const limit, slots, builds = 180, 8, 100
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	w := buildertest.NewWorld(t, openSpare)
	var all sync.WaitGroup
	free := make(chan struct{}, slots)
	for i := range builds {
		job := w.Job(fmt.Sprintf("job-%d", i), `sleep 0.01; echo > $out`, nil)
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			r, err := w.Builder.Build(t.Context(), job)
			if err != nil {
				t.Errorf("build %d: %v", i, err)
				return
			}
			r.Release()
		})
	}
	all.Wait()
}

// A builder that has all the descriptors in messages that its user may have keeps nobody
// else from being built: the user is the spawner's, too, or ours.
func TestDescriptorsInMessages(t *testing.T) {
	if os.Getenv(againVariable) == "" {
		for _, uid := range []uint32{0, 12345} {
			pass(t, again(t, "^TestDescriptorsInMessages$", int(uid), &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}))
		}
		return
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	files.Max = min(files.Max, 4096)
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	w := buildertest.NewWorld(t, openSpare)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	full := make(chan string, 1)
	hostile := w.Job("flight", `$probe flight`, func(j *builder.Job) {
		j.Log = func(line []byte) { full <- string(line) }
	})
	var done sync.WaitGroup
	done.Go(func() {
		defer close(full)
		if _, err := w.Builder.Build(ctx, hostile); !errors.Is(err, store.ErrCancelled) {
			t.Error(err)
		}
	})
	if got := <-full; got != unix.ETOOMANYREFS.Error() {
		t.Errorf("it had: %s", got)
	}
	for i := range 6 { // more than waited for a build already
		w.Built(w.Job(fmt.Sprintf("job-%d", i), `echo > $out`, nil)).Release()
	}
	cancel()
	done.Wait()
	w.Built(w.Job("after", `echo > $out`, nil)).Release()
}

// difference are the lines of b that a does not have, and the reverse.
func difference(a, b string) string {
	var d strings.Builder
	for _, side := range []struct{ mark, of, in string }{{"-", a, b}, {"+", b, a}} {
		for line := range strings.Lines(side.of) {
			if !strings.Contains(side.in, line) {
				d.WriteString(side.mark + line)
			}
		}
	}
	return d.String()
}

// Scratch directories wait where they are told to, and the stubs of one input set
// serve another.
func TestInputSetsInTurns(t *testing.T) {
	var l *builder.Local
	w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
		l = openSpare(t, o).(*builder.Local)
		return l
	})
	var all []store.Info
	for i := range 60 {
		name := "input-" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune('a'+i/26))
		all = append(all, w.Add(name, func(p string) {
			var err error
			switch i % 3 {
			case 0:
				if err = os.Mkdir(p, 0o755); err == nil {
					err = os.WriteFile(p+"/name", []byte(name+"\n"), 0o644)
				}
			case 1:
				err = os.WriteFile(p, []byte(name+"\n"), 0o644)
			default:
				err = os.Symlink(name, p)
			}
			if err != nil {
				t.Fatal(err)
			}
		}))
	}
	// Below and above what is mounted in one piece, the same again, and
	// overlapping.
	for i, set := range [][]store.Info{all[:40], all[:40], all[20:], all[:3], all[30:33], all[:40], all, all[5:50], all[:40], nil, all} {
		var want strings.Builder
		for _, in := range set {
			name := in.Path.Base()[33:]
			switch in.Kind {
			case store.KindDirectory:
				want.WriteString("d " + name + "\n")
			case store.KindSymlink:
				want.WriteString("l " + name + "\n")
			default:
				want.WriteString("f " + name + "\n")
			}
		}
		r := w.Built(w.Job("turn", `cd $NIX_STORE; n=0; for i in *-input-*; do
			if [ -L $i ]; then echo l $(readlink $i); elif [ -d $i ]; then echo d $(cat $i/name); elif [ -f $i ]; then echo f $(cat $i); fi; done > $out; ls -A | wc -l >> $out`, func(j *builder.Job) {
			j.Inputs = append(j.Inputs, set...)
		}))
		got := strings.Split(strings.TrimSpace(w.Text(r)), "\n")
		if len(got) != len(set)+1 || got[len(got)-1] != strconv.Itoa(len(set)+3) {
			t.Fatalf("set %d: %d inputs, and %s files", i, len(got)-1, got[len(got)-1])
		}
		for _, line := range got[:len(got)-1] {
			if !strings.Contains(want.String(), line+"\n") {
				t.Errorf("set %d: %s is no input", i, line)
			}
		}
		r.Release()
	}
	if left, err := os.ReadDir(w.Options.Builds); err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v %v", w.Options.Builds, left, err)
	}
	if spare, err := os.ReadDir(w.Options.Spare); err != nil || len(spare) == 0 {
		t.Errorf("spare: %v %v", spare, err)
	}
	l.Close()
	if spare, err := os.ReadDir(w.Options.Spare); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left after Close: %v %v", spare, err)
	}
}

// An input that was deleted and made again, or repaired, is not mounted as it was before,
// however often its set was; and what was mounted is let go.
func TestInputOfAnotherEra(t *testing.T) {
	var l *builder.Local
	w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
		l = openSpare(t, o).(*builder.Local)
		return l
	})
	for era, text := range []string{"one", "two", "three"} {
		in := w.Add("input", func(p string) { // in the place of the one before
			if err := os.Mkdir(p, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p+"/file", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		})
		for range 4 { // its set is kept from the second on
			r := w.Built(w.Job("job", "cat "+string(in.Path)+"/file > $out", func(j *builder.Job) {
				j.Inputs, j.Era = append(j.Inputs, in), uint64(era)
			}))
			if got := w.Text(r); got != text {
				t.Errorf("in era %d it sees %q, want %q", era, got, text)
			}
			r.Release()
		}
		if era == 0 {
			continue // nobody was told
		}
		l.Forget()
		if spare, err := os.ReadDir(w.Options.Spare); err != nil || len(spare) > 0 {
			t.Errorf("kept of an era that has ended: %v %v", spare, err)
		}
	}
}
