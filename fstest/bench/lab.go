package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lab is one state directory with its mount point.
type lab struct {
	b            *bench
	state, store string
	server       *exec.Cmd
}

func (b *bench) newLab(name string) (*lab, error) {
	l := &lab{b: b, state: filepath.Join(b.dir, name+"-state"), store: filepath.Join(b.dir, name+"-store")}
	if err := os.MkdirAll(l.store, 0o755); err != nil {
		return nil, err
	}
	return l, l.run("init", "--store", l.store)
}

// newFastLab makes one, in the place of the last one of that name, whose
// objects are in memory and whose database is on disk: what is measured is
// durable, and not the file system.
func (b *bench) newFastLab(name string) (*lab, error) {
	l := &lab{b: b, state: filepath.Join(b.fast, name+"-state"), store: filepath.Join(b.fast, name+"-store")}
	disk := filepath.Join(b.dir, name+".bolt")
	for _, old := range []string{l.state, l.store, disk} {
		removeAll(old)
	}
	for _, d := range []string{l.state, l.store} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(disk, filepath.Join(l.state, "db.bolt")); err != nil {
		return nil, err
	}
	return l, l.run("init", "--store", l.store)
}

func (l *lab) env() []string { return []string{"STOREFS_STATE=" + l.state} }

func (l *lab) run(args ...string) error {
	return do(l.b.dir, l.env(), append([]string{l.b.storefs}, args...)...)
}

func (l *lab) output(args ...string) (string, error) {
	cmd := exec.Command(l.b.storefs, args...)
	cmd.Dir, cmd.Env = l.b.dir, append(os.Environ(), l.env()...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func (l *lab) mount(args ...string) error {
	l.server = exec.Command(l.b.storefs, append([]string{"mount"}, args...)...)
	l.server.Env = append(os.Environ(), l.env()...)
	if err := l.server.Start(); err != nil {
		return err
	}
	for range 500 {
		if _, err := os.Stat(l.store + "/.storefs/status"); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("mount %s: not there after 5 s", l.store)
}

func (l *lab) unmount() {
	l.server.Process.Signal(unix.SIGTERM)
	l.server.Wait()
}
