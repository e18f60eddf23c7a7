package state

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// acknowledger registers as fast as it can, and prints the outputs of whatever
// was registered, until it is killed.
func acknowledger(dir string) error {
	s, err := Open(dir, Options{Command: "acknowledger"})
	if err != nil {
		return err
	}
	start := time.Now().UnixNano()
	errs := make(chan error)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				all, err := registerTwo(s, fmt.Sprintf("x-%d-%d-%d", start, w, i))
				if err != nil {
					errs <- err
					return
				}
				for _, d := range all {
					for _, o := range d.OutputList() {
						fmt.Println(o)
					}
				}
			}
		})
	}
	return <-errs
}

// A machine that loses its power has on its disk, complete, whatever was
// acknowledged before. The disk is an image in a file: what the file system has
// not given to the device is not in it.
func TestPowerLoss(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount the disk that this needs")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	images := openMemoryDir(t)
	disk := filepath.Join(images, "disk")
	command := func(name string, args ...string) error {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return nil
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 96<<20); err != nil {
		t.Fatal(err)
	}
	if err := command("mkfs.ext4", "-q", "-F", disk); err != nil {
		t.Fatal(err)
	}
	// The directory at which the state is must be the same in both: nothing
	// else of it is.
	at := openDir(t)
	mount := func(image string) error { return command("mount", "-o", "loop", image, at) }
	unmount := func() {
		if err := command("umount", at); err != nil {
			t.Error(err)
		}
	}
	if err := mount(disk); err != nil {
		t.Skipf("no loop devices: %v", err)
	}
	if out, err := play(t, "life", 0, filepath.Join(at, "state")).CombinedOutput(); err != nil {
		unmount()
		t.Fatalf("%v: %s", err, out)
	}
	unmount()

	r := rand.New(rand.NewPCG(7, 7))
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	var all []string
	for round := range rounds {
		// A file of its own for each: a mount namespace that anybody made while
		// the last one was mounted still has that, and a loop device of the same
		// file would show what it had in memory, not what the file holds now.
		cut := filepath.Join(images, fmt.Sprint("cut-", round))
		if err := mount(disk); err != nil {
			t.Fatal(err)
		}
		// At any moment of its life, and at any moment when it has acknowledged
		// something, however long that took.
		acknowledged, err := interrupted(t, filepath.Join(at, "state"), round%2 == 1, time.Duration(5+r.IntN(150))*time.Millisecond, func() error {
			return command("cp", "--sparse=always", disk, cut)
		})
		unmount()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, acknowledged...)
		if err := mount(cut); err != nil {
			t.Fatal(err)
		}
		verified := func() error {
			if out, err := play(t, "verifier", 0, filepath.Join(at, "state")).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, p := range all {
				if _, err := os.Lstat(filepath.Join(at, "state", "real", filepath.Base(p))); err != nil {
					return fmt.Errorf("it was acknowledged: %w", err)
				}
			}
			return nil
		}()
		unmount()
		_ = os.Remove(cut)
		if verified != nil {
			t.Fatal(verified)
		}
	}
	if len(all) == 0 {
		t.Fatal("nothing was ever acknowledged")
	}
	t.Logf("%d outputs were acknowledged", len(all))
}

// interrupted lets an acknowledger run for a while, which may begin when it
// acknowledges something, stops it, and calls then. It returns what had been
// acknowledged by the time it stood still.
func interrupted(t *testing.T, dir string, await bool, after time.Duration, then func() error) ([]string, error) {
	t.Helper()
	c := play(t, "acknowledger", 0, dir)
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	var count atomic.Int64
	var lines []string
	read, begun := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines = append(lines, s.Text())
			if count.Add(1) == 1 {
				close(begun)
			}
		}
	}()
	if await {
		select {
		case <-begun:
		case <-read:
		}
	}
	time.Sleep(after)
	err = c.Process.Signal(syscall.SIGSTOP)
	if err == nil {
		err = standsStill(c.Process.Pid)
	}
	// What is read later may have been written before.
	seen := count.Load()
	if err == nil {
		err = then()
	}
	_ = c.Process.Kill()
	<-read
	_ = c.Wait()
	if err == nil && stderr.Len() > 0 {
		err = fmt.Errorf("acknowledger: %s", stderr.String())
	}
	return lines[:seen], err
}

// standsStill waits until no thread of a stopped process is in a system call any
// more.
func standsStill(pid int) error {
	for range 1000 {
		moving := false
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			b, err := os.ReadFile(task)
			if err != nil {
				return err
			}
			_, rest, _ := strings.Cut(string(b), ") ")
			moving = moving || rest == "" || rest[0] != 'T'
		}
		if !moving && len(tasks) > 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return os.NewSyscallError("stop", unix.ETIMEDOUT)
}
