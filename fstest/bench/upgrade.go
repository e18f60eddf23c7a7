package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	upgradeRounds = 20
	// upgradePaths are looked up beforehand: the next server takes them over.
	upgradePaths = 20_000
	upgradeMark  = 500 * time.Millisecond
)

// upgrade: how long a mount in use stands still while another program takes it
// over, and while a server that was killed is followed by the next. A client
// asks without a break for what only the server can answer.
func (b *bench) upgrade() error {
	l, err := b.newLab("upgrade")
	if err != nil {
		return err
	}
	tree := filepath.Join(b.dir, "upgrade-tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	for i := range upgradePaths {
		if err := os.WriteFile(filepath.Join(tree, strconv.Itoa(i)), nil, 0o644); err != nil {
			return err
		}
	}
	dir, err := l.output("add", tree)
	if err != nil {
		return err
	}
	if err := l.mount(); err != nil {
		return err
	}
	defer l.unmount()
	for i := range upgradePaths {
		if _, err := os.Stat(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"upgrade", func() error { return l.run("upgrade") }},
		{"kill -9", l.killServer},
	} {
		var pauses []time.Duration
		for i := range upgradeRounds {
			pause, err := standstill(fmt.Sprintf("%s/nothing-%s-%d", dir, c.what, i), c.do)
			if err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			pauses = append(pauses, pause)
			time.Sleep(1100 * time.Millisecond) // deaths in a row are waited for longer and longer
		}
		slices.Sort(pauses)
		middle, longest := pauses[len(pauses)/2], pauses[len(pauses)-1]
		verdict := "met"
		if longest > upgradeMark {
			verdict = "missed"
		}
		fmt.Printf("%s of a server of which the kernel knows %d files: callers wait %v (median of %d), %v at most; the mark of %v is %s\n",
			c.what, upgradePaths, middle.Round(time.Millisecond/10), len(pauses), longest.Round(time.Millisecond/10), upgradeMark, verdict)
	}
	return nil
}

// standstill is the longest time that one use of the mount takes while f runs,
// and shortly afterwards.
func standstill(absent string, f func() error) (time.Duration, error) {
	done := make(chan error, 1)
	var longest time.Duration
	for n := 0; ; n++ {
		if n == 100 {
			go func() {
				err := f()
				time.Sleep(100 * time.Millisecond)
				done <- err
			}()
		}
		select {
		case err := <-done:
			return longest, err
		default:
		}
		began := time.Now()
		if _, err := os.Lstat(absent + strconv.Itoa(n)); !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("lstat of nothing: %w", err)
		}
		longest = max(longest, time.Since(began))
	}
}

var serverPID = regexp.MustCompile(`"pid":(\d+)`)

// killServer returns when the next one answers.
func (l *lab) killServer() error {
	status, err := l.output("status", "--json")
	if err != nil {
		return err
	}
	m := serverPID.FindStringSubmatch(status)
	if m == nil {
		return errors.New("the status has no pid")
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	return l.run("status")
}
