package fs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"storefs/fs"
	"storefs/store"
)

var errCancelled = context.Canceled

// The test binary is also what must not run in the process that serves the
// mount: clients written in Go, and servers that are to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "-client" {
		if err := client(os.Args[2], os.Args[3:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testBinary(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startClient runs a client; the returned function waits for its end.
func startClient(t *testing.T, args ...string) func() (string, error) {
	t.Helper()
	cmd := exec.Command(testBinary(t), append([]string{"-client"}, args...)...)
	cmd.Dir = "/"
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		done <- result{out, err}
	}()
	return func() (string, error) {
		r := <-done
		return string(r.out), r.err
	}
}

func client(what string, args []string) error {
	switch what {
	case "stat": // DIR NAMES EACH: stat(2) of all names, all at once, without trying again
		names, _ := strconv.Atoi(args[1])
		each, _ := strconv.Atoi(args[2])
		var wg sync.WaitGroup
		errs := make([]error, names*each)
		for i := range errs {
			wg.Go(func() {
				var st syscall.Stat_t
				errs[i] = syscall.Stat(filepath.Join(args[0], name(i%names, "x"), "bin", "hello"), &st)
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	case "signals": // FILE: open(2) while other goroutines keep the runtime preempting
		signal.Notify(make(chan os.Signal, 1), syscall.SIGALRM, syscall.SIGCHLD, syscall.SIGWINCH, syscall.SIGUSR1)
		stop := time.AfterFunc(time.Minute, func() { os.Exit(3) })
		defer stop.Stop()
		for range 4 {
			go func() {
				for i := 0; ; i++ {
					_ = make([]byte, i%4096)
				}
			}()
		}
		fd, err := syscall.Open(args[0], syscall.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return syscall.Close(fd)
	case "serve": // DIR REAL [DATA [HELD]]: serve names that never become valid, and one that does quickly
		return serveNames(args)
	}
	return fmt.Errorf("no client %q", what)
}

const sigcont = syscall.SIGCONT

// serveNames is a server that is to be killed. With DATA, the mount survives it:
// it says by which descriptors, and leaves the mount to the next one at SIGTERM.
// With HELD too, it is that one, and has them as 3 and 4. At SIGUSR1, it begins to replace
// the quick one, and at SIGUSR2 it does not after all; the kernel has to ask for the
// root's attributes, and REAL.replacing is there then.
func serveNames(args []string) error {
	s := openFakeStore(args[1])
	s.add(name(1, "quick"), recipe{make: tree})
	s.add(name(2, "never"), recipe{make: tree, hold: make(chan struct{})})
	s.add(name(3, "never"), recipe{make: tree, promised: store.KindDirectory, hold: make(chan struct{})})
	s.add(name(4, "never"), recipe{make: regular("doc\n"), promised: store.KindRegular, hold: make(chan struct{})})
	opts := fs.Options{Mountpoint: args[0], Real: args[1], Store: s, Realiser: s, Control: s}
	if len(args) > 2 {
		opts.Data, opts.Survive = fs.Data(args[2]), true
	}
	if len(args) > 3 {
		if err := s.refresh(); err != nil {
			return err
		}
		opts.Held = &fs.Held{Device: os.NewFile(3, "device"), Journal: os.NewFile(4, "journal")}
	}
	server, err := fs.Mount(opts)
	if err != nil {
		return err
	}
	replacing := make(chan os.Signal, 1)
	signal.Notify(replacing, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		sig := <-replacing
		done := server.Replacing(name(1, "quick"))
		if sig == syscall.SIGUSR2 {
			done()
		}
		server.Changed()
		<-server.Told()
		_ = os.WriteFile(args[1]+".replacing", nil, 0o600)
	}()
	fmt.Print("ready")
	if h := server.Held(); h != nil {
		fmt.Print(" ", h.Device.Fd(), " ", h.Journal.Fd())
	}
	fmt.Println()
	part := make(chan os.Signal, 1)
	signal.Notify(part, syscall.SIGTERM)
	go func() {
		<-part
		server.Part()
		os.Exit(0)
	}()
	server.Wait()
	return nil
}
