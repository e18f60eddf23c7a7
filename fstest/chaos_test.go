package fstest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// chaosTime is how long the disorder lasts at most; STOREFS_CHAOS=8h makes it
// longer (make chaos).
func chaosTime(t *testing.T) time.Duration {
	t.Helper()
	if v := os.Getenv("STOREFS_CHAOS"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if testing.Short() {
		return 10 * time.Second
	}
	return 30 * time.Second
}

// chaosKills is after how many dead servers it ends, if STOREFS_KILLS says so.
func chaosKills(t *testing.T) int {
	t.Helper()
	v := os.Getenv("STOREFS_KILLS")
	if v == "" {
		return math.MaxInt
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Clients of every kind use one mount without a pause while its servers are
// killed, its holders are killed, and programs are upgraded, in any order. None
// of them may see an error, or anything that is not as it was.
func TestChaos(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
big = sh("big", "mkdir $out; seq 1 200000 > $out/file; for i in $(seq 1 200); do echo $i > $out/f$i; done")
again = [sh("again-%d" % i, "sleep 0.%d; mkdir $out; echo %d > $out/file" % (i, i)) for i in range(6)]
files = [sh("file-%d" % i, "sleep 0.%d; echo %d > $out" % (i, i), kind = "regular") for i in range(6)]
asked = [sh("asked-%d" % i, "sleep 0.%d; mkdir $out; echo %d > $out/file" % (i, i)) for i in range(3)]
inner = sh("inner", "sleep 0.3; mkdir $out; echo inner > $out/file")
outer = sh("outer", "cp $in/file $out", env = {"in": inner.out}, kind = "regular")
`)
	again, files, asked := l.outputs(file+":again"), l.outputs(file+":files"), l.outputs(file+":asked")
	outer := l.outputs(file + ":outer")[0]
	inner := l.outputs(file + ":inner")[0]
	l.serve("-j", "4")
	big := l.ok("build", file+":big")[0]

	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(l.Dir + "/mount.log")
			t.Logf("the servers' messages:\n%s", log)
		}
	})
	c := &chaos{lab: l, t: t, kills: chaosKills(t)}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), chaosTime(t))
	defer cancel()
	c.ctx = ctx

	var clients sync.WaitGroup
	loop := func(name string, f func(round int) error) {
		clients.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				if err := f(round); err != nil && ctx.Err() == nil {
					c.fail(name, err)
				}
				c.rounds.Add(1)
			}
		})
	}
	for i, p := range again {
		loop("touch a directory", func(int) error { return c.cycle(p, p+"/file", i) })
	}
	for i, p := range files {
		loop("touch a file", func(int) error { return c.cycle(p, p, i) })
	}
	for _, p := range asked {
		loop("storefs build", func(int) error {
			return errors.Join(c.storefs("build", p), c.storefs("delete", p))
		})
	}
	loop("a chain", func(int) error {
		return errors.Join(c.content(outer, "inner\n"), c.remove(outer, inner))
	})
	c.reader(big, loop)
	loop("list", func(int) error {
		entries, err := os.ReadDir(l.Store)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if l.Store+"/"+e.Name() == big {
				return nil
			}
		}
		return errors.New("a valid path is not listed")
	})
	loop("list inside", func(int) error {
		entries, err := os.ReadDir(big)
		if err == nil && len(entries) != 201 {
			err = fmt.Errorf("%d entries", len(entries))
		}
		return err
	})
	loop("absent", func(round int) error {
		for _, dir := range []string{big, l.Store} {
			if _, err := os.Lstat(fmt.Sprintf("%s/nothing-%d", dir, round)); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("lstat of nothing: %w", err)
			}
		}
		time.Sleep(time.Millisecond)
		return nil
	})
	loop("control", func(int) error {
		b, err := os.ReadFile(l.Store + "/.storefs/status")
		if err == nil && len(b) == 0 {
			err = errors.New("the status is empty")
		}
		time.Sleep(5 * time.Millisecond)
		return err
	})
	loop("ask", func(int) error { return c.storefs("query", "info", big) })
	c.script(&clients, "bash", "-c", `trap : ALRM WINCH USR1
while kill -0 $PPID; do
  for i in 1 2 3 4; do { read -r a < $0/f$i && [ "$a" = $i ]; } || { echo "f$i: $a"; exit 1; }; done
  kill -WINCH $$; kill -USR1 $$
  test "$(cat $0/f7)" = 7 || { echo f7; exit 1; }
done`, big)
	c.script(&clients, need(t, "python3"), "-c", `
import os, signal, sys, time, itertools
for s in (signal.SIGALRM, signal.SIGUSR1): signal.signal(s, lambda *a: None)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
f = open(sys.argv[1] + "/file", "rb")
ino = os.fstat(f.fileno()).st_ino
for n in itertools.count():
    i = n % 200 + 1
    with open("%s/f%d" % (sys.argv[1], i)) as g: assert g.read() == "%d\n" % i
    assert len(os.listdir(sys.argv[1])) == 201
    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    f.seek(0); assert f.read(2) == b"1\n"
    assert os.stat(sys.argv[1] + "/file").st_ino == ino
    time.sleep(0.002)
`, big)

	c.disturb()
	cancel()
	finished := make(chan struct{})
	go func() { clients.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(time.Minute):
		for _, pid := range append(l.serving(false), l.serving(true)...) {
			unix.Kill(pid, unix.SIGQUIT) // they say what they do
		}
		time.Sleep(time.Second)
		t.Fatal("clients hang")
	}
	t.Logf("%d rounds of clients, %d servers killed, %d holders killed, %d upgrades, %d files opened that were deleted",
		c.rounds.Load(), c.servers, c.holders, c.upgrades, c.stale.Load())
	if int(c.stale.Load()) > c.servers {
		t.Error("more files that were deleted could be opened than servers died")
	}
	if c.servers+c.upgrades < int(time.Since(began)/(6*time.Second)) {
		t.Error("there was hardly any disorder")
	}
	l.ok("verify", "--check-contents")
	l.ok("umount")
	waitFor(t, "the holders' end", func() bool { return len(l.serving(true)) == 0 })
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.Store) {
		t.Error("still mounted after the end")
	}
	l.noOrphans(0)
}

type chaos struct {
	*lab
	t      *testing.T
	ctx    context.Context
	rounds atomic.Int64
	failed atomic.Int64
	stale  atomic.Int64 // opened although they were deleted

	kills int // of servers, which are enough

	servers, holders, upgrades int
}

func (c *chaos) fail(who string, err error) {
	if c.failed.Add(1) <= 20 {
		c.t.Errorf("%s %s: %v", time.Now().Format("15:04:05.000"), who, err)
	}
}

func (c *chaos) storefs(args ...string) error {
	cmd := c.command(args...)
	out, err := cmd.CombinedOutput()
	if err != nil && c.ctx.Err() == nil {
		return fmt.Errorf("storefs %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (c *chaos) content(p, want string) error {
	b, err := os.ReadFile(p)
	if errors.Is(err, unix.ESTALE) {
		// Deleted, and the server died before it could say so to the kernel,
		// which still let it be opened.
		c.stale.Add(1)
		return nil
	}
	if err == nil && string(b) != want {
		err = fmt.Errorf("%s: %q, want %q", p, b, want)
	}
	return err
}

// cycle deletes p and touches it again, by this process or by another one.
func (c *chaos) cycle(p, file string, i int) error {
	want := fmt.Sprintf("%d\n", i)
	if i%2 == 0 {
		out, err := exec.CommandContext(c.ctx, "cat", file).CombinedOutput()
		if bytes.Contains(out, []byte("Stale file handle")) {
			c.stale.Add(1)
			return nil // as in content
		}
		if err != nil || string(out) != want {
			return fmt.Errorf("cat: %w: %s", err, out)
		}
	} else if err := c.content(file, want); err != nil {
		return err
	}
	return c.remove(p)
}

// remove deletes what was touched. For a moment after a deletion the kernel
// still has what was deleted: then the touch started nothing.
func (c *chaos) remove(paths ...string) error {
	err := c.storefs(append([]string{"delete"}, paths...)...)
	if err != nil && strings.Contains(err.Error(), "not valid") {
		return nil
	}
	return err
}

// reader reads a file that stays open all the time, in and out of the kernel's
// cache.
func (c *chaos) reader(big string, loop func(string, func(int) error)) {
	f, err := os.Open(big + "/file")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		c.t.Fatal(err)
	}
	sum := func() ([32]byte, error) {
		h := sha256.New()
		_, err := io.Copy(h, io.NewSectionReader(f, 0, st.Size()))
		return [32]byte(h.Sum(nil)), err
	}
	want, err := sum()
	if err != nil {
		c.t.Fatal(err)
	}
	loop("read an open file", func(int) error {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return err
		}
		have, err := sum()
		if err == nil && have != want {
			err = errors.New("other bytes")
		}
		now, serr := os.Stat(big + "/file")
		if serr == nil && !os.SameFile(st, now) {
			serr = errors.New("another inode")
		}
		return errors.Join(err, serr)
	})
}

// script runs a client that ends only if something is wrong.
func (c *chaos) script(clients *sync.WaitGroup, args ...string) {
	clients.Go(func() {
		out, err := exec.CommandContext(c.ctx, args[0], args[1:]...).CombinedOutput()
		if c.ctx.Err() == nil {
			c.fail(args[0], fmt.Errorf("%w: %s", err, out))
		}
	})
}

// disturb kills and upgrades until the time is over.
func (c *chaos) disturb() {
	quick := 0
	for c.ctx.Err() == nil && c.servers < c.kills {
		pause := time.Duration(rand.IntN(1500)) * time.Millisecond
		if quick++; quick == 3 {
			// Five deaths, each within a second of being ready, would be taken for a
			// server that cannot live. On a busy machine one is ready late.
			if err := c.storefs("status"); err != nil {
				c.fail("status", err)
			}
			pause += 1500 * time.Millisecond
			quick = 0
		}
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return
		}
		switch rand.IntN(8) {
		case 0:
			// Alone: a holder must have a server, and a server its next holder.
			if err := c.storefs("status"); err != nil {
				c.fail("status", err)
			}
			dead := c.serving(true)
			for _, pid := range dead {
				unix.Kill(pid, unix.SIGKILL)
				c.holders++
			}
			for range 500 {
				if now := c.serving(true); len(now) == 1 && !slices.Equal(now, dead) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(300 * time.Millisecond)
		case 1:
			if err := c.storefs("upgrade"); err != nil {
				c.fail("upgrade", err)
			}
			c.upgrades++
		default:
			for _, pid := range c.serving(false) {
				unix.Kill(pid, unix.SIGKILL)
				c.servers++
			}
		}
	}
}
