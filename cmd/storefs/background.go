package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"storefs/outlet"
)

// background starts this command again, in a session of its own, and returns
// when it says that it is ready: the way it would say so to systemd.
func (c *mountCmd) background(ctx context.Context, a *app) error {
	log, err := os.OpenFile(logPath(a.State), os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer log.Close()
	newDaemonLog(log, a.State).trim() // before its length is remembered
	before, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	dir, err := os.MkdirTemp("", "storefs-")
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer os.RemoveAll(dir)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer notify.Close()

	cmd := exec.Command("/proc/self/exe", append(slices.Clone(os.Args[1:]), "--no-background")...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		b := make([]byte, 4096)
		for {
			n, err := notify.Read(b)
			if err != nil || slices.Contains(strings.Split(string(b[:n]), "\n"), sd.SdNotifyReady) {
				return
			}
		}
	}()
	select {
	case <-ready:
		tell(a.stderr, log, before)
		return nil
	case <-ended:
		notify.Close()
		<-ready
		return lastLine(log, before)
	case <-ctx.Done():
		err := cmd.Process.Signal(unix.SIGTERM)
		<-ended
		return errors.Join(ctx.Err(), err)
	}
}

// tell prints what the process in the background said before it was ready: that nothing
// can be built here, say, or that this kernel lets no mount survive its server. Who
// starts it would not look for that in its log.
func tell(w io.Writer, log *os.File, before int64) {
	_, _ = io.Copy(w, io.NewSectionReader(log, before, 64<<10)) // the mount is there, come what may
}

// lastLine is the error that the process in the background left in its log.
func lastLine(log *os.File, before int64) error {
	b := make([]byte, 64<<10)
	n, _ := log.ReadAt(b, before)
	line := bytes.TrimSpace(b[:n])
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	if len(line) == 0 {
		// On a full disk it had something to say, and nowhere to do so.
		if _, err := log.WriteString("\n"); err != nil {
			return fmt.Errorf("mount: it ended at once, and its last words are lost: %w", err)
		}
		return fmt.Errorf("mount: it ended at once, without a word in %s", log.Name())
	}
	text := string(line)
	if n := len(outlet.Stamp); len(text) > n {
		if _, err := time.Parse(outlet.Stamp, text[:n]); err == nil {
			text = text[n:]
		}
	}
	return errors.New(strings.TrimPrefix(text, "storefs: "))
}
