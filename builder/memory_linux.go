package builder

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// expendable is how much sooner the kernel ends builders than others when memory runs
// out, in thousandths of all memory: as if each of their processes had a quarter of it
// more. Else a compiler that takes too much could cost the server of a mount, and whoever
// waits there. See oom_score_adj in proc_pid_oom_score_adj(5).
const expendable = 250

// beExpendable says so of this process, and of all that it starts, in addition to what
// whoever has started it chose. Where that cannot be said, it stays as it is.
func beExpendable() {
	const file = "/proc/self/oom_score_adj"
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	if now, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		_ = os.WriteFile(file, strconv.AppendInt(nil, int64(min(now+expendable, 1000)), 10), 0)
	}
}

// shortages tells how many processes the kernel has ended as memory had run out: those of
// this process's control group, as builders are, or of the machine where there is none.
type shortages struct {
	file string // which has a line "oom_kill N"; "": nobody knows

	mu     sync.Mutex
	last   int
	looked time.Time
}

// shortagesFresh is how old a number may be that a builder begins with: to read one takes
// as long as a twentieth of a trivial build.
const shortagesFresh = time.Second

// before is the number that a builder begins with.
func (s *shortages) before() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != "" && time.Since(s.looked) > shortagesFresh {
		s.look()
	}
	return s.last
}

// since is how many there were since there were n.
func (s *shortages) since(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != "" {
		s.look()
	}
	return max(0, s.last-n)
}

func (s *shortages) look() {
	s.looked = time.Now()
	if n, err := countShortages(s.file); err == nil {
		s.last = n
	}
}

// countShortages reads the number from a file.
func countShortages(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if n, found := strings.CutPrefix(line, "oom_kill "); found {
			return strconv.Atoi(strings.TrimSpace(n))
		}
	}
	return 0, fmt.Errorf("%s: there is no oom_kill", file)
}

// shortagesFile is the file for shortages, of what a system shows in proc.
func shortagesFile(proc string) string {
	groups, err1 := os.ReadFile(filepath.Join(proc, "self/cgroup"))
	mounts, err2 := os.ReadFile(filepath.Join(proc, "self/mountinfo"))
	if err1 == nil && err2 == nil {
		for line := range strings.Lines(string(groups)) {
			// hierarchy:controllers:path
			parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
			if len(parts) != 3 {
				continue
			}
			fstype, option, file := "cgroup", "memory", "memory.oom_control"
			if parts[0] == "0" {
				fstype, option, file = "cgroup2", "", "memory.events"
			} else if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			dir := groupDir(string(mounts), fstype, option, parts[2])
			if dir == "" {
				continue
			}
			file = filepath.Join(dir, file)
			if _, err := countShortages(file); err == nil {
				return file
			}
		}
	}
	file := filepath.Join(proc, "vmstat") // Linux 4.13
	if _, err := countShortages(file); err != nil {
		return ""
	}
	return file
}

// groupDir is where a control group is found, "" if it is not.
func groupDir(mounts, fstype, option, group string) string {
	for line := range strings.Lines(mounts) {
		// id parent device root place options … - fstype source options
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		a, b := strings.Fields(before), strings.Fields(after)
		if !found || len(a) < 5 || len(b) < 3 || b[0] != fstype || !strings.Contains(","+b[2]+",", ","+option) {
			continue
		}
		if rest, found := strings.CutPrefix(group, strings.TrimSuffix(a[3], "/")); found && (rest == "" || rest[0] == '/') {
			return path.Join(a[4], rest)
		}
	}
	return ""
}

// ranOut is what is said of a builder that has failed, and began when there were n. Whether
// it was its own process nobody knows: it may have failed for another reason beside one that
// took too much.
func (s *shortages) ranOut(n int) string {
	switch n = s.since(n); n {
	case 0:
		return ""
	case 1:
		return "; memory ran out meanwhile: the kernel ended a process"
	default:
		return fmt.Sprintf("; memory ran out meanwhile: the kernel ended %d processes", n)
	}
}
