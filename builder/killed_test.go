package builder_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"storefs/builder"
	"storefs/builder/buildertest"
)

// TestKilled kills a process that builds, at different moments, and looks for what
// is left of its builds.
func TestKilled(t *testing.T) {
	if mark := os.Getenv("STOREFS_TEST_MARK"); os.Getenv(againVariable) != "" {
		buildUntilKilled(t, mark)
		return
	}
	for i := range 12 {
		mark := fmt.Sprintf("%d.%d", 100_000+os.Getpid(), 100+i)
		cmd := again(t, "^TestKilled$", 0, nil)
		cmd.Env = append(cmd.Env, "STOREFS_TEST_MARK="+mark)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The first of its three builds runs; the others may be at any point.
		lines := bufio.NewScanner(out)
		for lines.Scan() && !strings.Contains(lines.Text(), "running") {
		}
		if i%2 == 0 {
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		// One that was about to become a builder would be one soon.
		gone := 0
		for deadline := time.Now().Add(time.Minute); gone < 10; time.Sleep(10 * time.Millisecond) {
			left := buildertest.Running(mark)
			if len(left) == 0 {
				gone++
			} else if gone = 0; time.Now().After(deadline) {
				t.Fatalf("processes are left: %v", left)
			}
		}
	}
}

func buildUntilKilled(t *testing.T, mark string) {
	w := buildertest.NewWorld(t, local)
	for i := range 3 {
		job := w.Job(fmt.Sprintf("job-%d", i), `trap '' TERM INT HUP; (setsid sleep `+mark+` &); echo running; sleep `+mark+`; sleep `+mark, func(j *builder.Job) {
			j.Log = func(line []byte) { fmt.Println(string(line)) }
		})
		if i < 2 {
			go func() { _, _ = w.Builder.Build(t.Context(), job) }()
			continue
		}
		_, _ = w.Builder.Build(t.Context(), job)
	}
}
