package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// system is one way to see the same tree.
type system struct {
	name string
	root string
	// requests are those that the kernel has sent so far; nil if that is not known.
	requests func() (map[string]uint64, error)
	end      func()
}

// mount: the same files on the backing file system, through bindfs, through
// go-fuse's loopback, and through storefs, in turns.
func (b *bench) mount() error {
	tree := filepath.Join(b.dir, "tree")
	if err := b.makeTree(tree); err != nil {
		return err
	}
	systems, err := b.systems(tree)
	defer func() {
		for _, s := range systems {
			s.end()
		}
	}()
	if err != nil {
		return err
	}
	states := []struct {
		name string
		runs int
		cool func() error
	}{
		{"warm", b.runs, nil},
		{"FUSE caches cold, backing warm", min(b.runs, 3), func() error {
			if err := dropCaches("2"); err != nil {
				return err
			}
			return readAll(systems[0].root)
		}},
		{"disk cold", min(b.runs, 3), func() error { return dropCaches("3") }},
	}
	for _, s := range states {
		fmt.Printf("\n%-22s %10s", s.name, systems[0].name+" ms")
		for _, sys := range systems[1:] {
			fmt.Printf(" %18s", sys.name)
		}
		fmt.Printf("   requests\n")
		for _, w := range workloads {
			if !b.work.MatchString(w.name) {
				continue
			}
			if err := b.row(systems, w, s.runs, s.cool); err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, s.name, err)
			}
		}
	}
	return nil
}

// row runs one workload on all systems in turns and prints the medians of the
// ratios to the first, with the least and the greatest.
func (b *bench) row(systems []*system, w workload, runs int, cool func() error) error {
	first := make([]float64, 0, runs)
	ratios := make([][]float64, len(systems))
	sent := make([]map[string]uint64, len(systems))
	for i := range runs + 1 {
		if i == 0 && cool != nil {
			continue
		}
		var base float64
		for k, s := range systems {
			if cool != nil {
				if err := cool(); err != nil {
					return err
				}
			}
			var before map[string]uint64
			if s.requests != nil {
				var err error
				if before, err = s.requests(); err != nil {
					return err
				}
			}
			start := time.Now()
			err := w.run(s.root)
			took := time.Since(start).Seconds()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if s.requests != nil {
				after, err := s.requests()
				if err != nil {
					return err
				}
				sent[k] = difference(before, after)
			}
			if k == 0 {
				base = took
			}
			if i > 0 {
				if k == 0 {
					first = append(first, took)
				}
				ratios[k] = append(ratios[k], took/base)
			}
		}
	}
	slices.Sort(first)
	fmt.Printf("%-22s %10.1f", w.name, first[len(first)/2]*1000)
	for _, r := range ratios[1:] {
		slices.Sort(r)
		fmt.Printf(" %18s", fmt.Sprintf("%.2f (%.2f–%.2f)", r[len(r)/2], r[0], r[len(r)-1]))
	}
	for k, s := range systems {
		if s.requests != nil {
			fmt.Printf("   %s: %s", s.name, countsText(sent[k]))
		}
	}
	fmt.Println()
	return nil
}

// difference is what was sent between two counts, without forgets, for which
// nobody waits, and without what the counting itself costs.
func difference(before, after map[string]uint64) map[string]uint64 {
	d := make(map[string]uint64)
	for name, n := range after {
		if n -= before[name]; n > 0 && name != "forget" {
			d[name] = n
		}
	}
	return d
}

func countsText(m map[string]uint64) string {
	if len(m) == 0 {
		return "none"
	}
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
	}
	return strings.Join(parts, ", ")
}

// systems are the ways to see tree; the first is what others are compared with.
func (b *bench) systems(tree string) (systems []*system, err error) {
	for i, data := range b.data {
		l, err := b.newLab("mount-" + data)
		if err != nil {
			return systems, err
		}
		path, err := l.output("add", tree)
		if err != nil {
			return systems, err
		}
		if err := l.mount("--data=" + data); err != nil {
			return systems, err
		}
		if i == 0 {
			real := filepath.Join(l.state, "real", filepath.Base(path))
			systems = append(systems, &system{name: "native", root: real, end: func() {}})
			for _, peer := range []struct {
				name string
				argv []string
			}{
				{"bindfs", []string{"bindfs", "-f", "-r"}},
				{"loopback", []string{b.self, "-loopback"}},
			} {
				s, err := b.peer(peer.name, append(peer.argv, real))
				if err != nil {
					return append(systems, &system{end: l.unmount}), err
				}
				systems = append(systems, s)
			}
		}
		name := "storefs"
		if len(b.data) > 1 {
			name = data
		}
		systems = append(systems, &system{name: name, root: path, requests: l.requests, end: l.unmount})
	}
	return systems, nil
}

// peer mounts another file system: argv and a mount point.
func (b *bench) peer(name string, argv []string) (*system, error) {
	if _, err := exec.LookPath(argv[0]); err != nil {
		return nil, fmt.Errorf("%s is not installed (make deps)", argv[0])
	}
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], append(argv[1:], dir)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &system{name: name, root: dir, end: func() {
		unix.Unmount(dir, unix.MNT_DETACH)
		cmd.Wait()
	}}
	for range 500 {
		if _, err := os.Stat(dir + "/many"); err == nil {
			return s, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.end()
	return nil, fmt.Errorf("%s: not there after 5 s", name)
}

// requests asks the server, and not the mount, which would send some.
func (l *lab) requests() (map[string]uint64, error) {
	out, err := l.output("status", "--json")
	if err != nil {
		return nil, err
	}
	var s struct {
		Mount struct{ Requests map[string]uint64 }
	}
	err = json.Unmarshal([]byte(out), &s)
	return s.Mount.Requests, err
}

func dropCaches(what string) error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte(what), 0)
}

// readAll brings a tree into the caches.
func readAll(dir string) error {
	return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		_, err = os.ReadFile(p)
		return err
	})
}

// canonical makes what storefs will store: git compares times.
func canonical(dir string) error {
	return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0))
	})
}

// copyInto copies files to the same paths below dir, what links lead to as files.
func copyInto(dir string, files []string) error {
	var list bytes.Buffer
	for _, f := range files {
		list.WriteString(f + "\x00")
	}
	cmd := exec.Command("tar", "-ch", "--null", "-T", "-", "-P", "-f", "-")
	cmd.Stdin = &list
	cmd.Stderr = os.Stderr
	from, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	to := exec.Command("tar", "-x", "-f", "-", "-C", dir)
	to.Stdin = from
	if out, err := to.CombinedOutput(); err != nil {
		return fmt.Errorf("copy: %w\n%s", err, out)
	}
	return cmd.Wait()
}
