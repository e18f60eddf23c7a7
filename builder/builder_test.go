package builder_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/builder/buildertest"
)

func TestMain(m *testing.M) {
	builder.Child()
	os.Exit(runAll(m))
}

// runAll has the probe compiled once for all tests, and for those that run in other
// processes, of other users too.
func runAll(m *testing.M) int {
	_, err := exec.LookPath("go")
	if err != nil || os.Getenv(buildertest.ProbeVariable) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "builder-probe-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	probe, err := buildertest.CompileProbe(dir)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.Setenv(buildertest.ProbeVariable, probe))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// local opens the builder of this package.
func local(t testing.TB, o *builder.Options) buildertest.Builder {
	t.Helper()
	l, err := builder.New(*o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// ways are the ways in which a sandbox can come about.
func ways() map[string]func(o *builder.Options) {
	return map[string]func(o *builder.Options){
		"self":    func(o *builder.Options) { o.NoSpawner = true },
		"spawner": func(*builder.Options) {},
		"spare":   func(o *builder.Options) { o.Spare = o.Builds + ".spare" },
	}
}

func TestSuite(t *testing.T) {
	for way, edit := range ways() {
		if way == "spawner" {
			continue // it lies between the others, and most other tests go it
		}
		t.Run(way, func(t *testing.T) {
			buildertest.Run(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
				edit(o)
				o.Say = func(line string) { t.Error(line) }
				return local(t, o)
			})
		})
	}
}

// What builders see has the same modes whatever the umask is of whoever has them
// built: an administrator's may close everything to others.
func TestClosedUmask(t *testing.T) {
	var modes string
	for _, umask := range []int{0o022, 0o077} {
		for way, edit := range ways() {
			t.Run(fmt.Sprintf("%s %03o", way, umask), func(t *testing.T) {
				w := buildertest.NewWorld(t, func(t testing.TB, o *builder.Options) buildertest.Builder {
					edit(o)
					return local(t, o)
				})
				before := unix.Umask(umask)
				t.Cleanup(func() { unix.Umask(before) })
				job := w.Job("modes", `stat -c '%a %n' / /* /dev/* /etc/* /gnu/store.d .attr-* > $out`, nil)
				buildertest.Setenv(job.Derivation, "passAsFile", "name")
				buildertest.Setenv(job.Derivation, "name", "modes")
				got := w.Text(w.Built(job))
				if modes == "" {
					modes = got
				}
				if got != modes {
					t.Errorf("modes are\n%s, were\n%s", got, modes)
				}
			})
		}
	}
}
