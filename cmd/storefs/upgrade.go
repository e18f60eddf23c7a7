package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"storefs/daemon"
)

type upgradeCmd struct {
	Program string `arg:"" optional:"" type:"path" placeholder:"FILE" help:"The program that is to go on. [this one]"`
}

func (*upgradeCmd) Help() string {
	return `Lets another program, usually a newer version of this one, go on with the mount of the state directory, with the flags that the mount was made with. Nobody who uses the mount sees an error: callers only wait a moment, open files stay open, and builds that were running begin anew. A program that does not start, or is not ready within half a minute, changes nothing; Ctrl-C calls it off until then.`
}

// upgraded is what upgrade prints.
type upgraded struct {
	Version string `json:"version"`
	PID     int    `json:"pid"`
}

func (c *upgradeCmd) Run(ctx context.Context, a *app) error {
	program, err := c.program()
	if err != nil {
		return badInput(fmt.Errorf("upgrade: %w", err))
	}
	client, err := a.dial(ctx, true)
	if errors.Is(err, daemon.ErrNoServer) {
		return fmt.Errorf("upgrade: nobody serves %s (storefs mount does)", a.State)
	}
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	before := client.Hello()
	err = client.Upgrade(ctx, program)
	client.Close()
	// A server that ends before it has answered may have been taken over from.
	if err != nil && !gone(err) {
		return err
	}
	for deadline := time.Now().Add(comeback); ; {
		client, err := a.dial(ctx, true)
		if err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		now := client.Hello()
		client.Close()
		if now.PID != before.PID && now.Mountpoint != "" {
			if !runs(now.PID, program) {
				return fmt.Errorf("upgrade: %s did not serve (the mount's messages say why); process %d goes on as the program before", program, now.PID)
			}
			return a.print(upgraded{now.Version, now.PID}, func(w io.Writer) { fmt.Fprintln(w, now.Version) })
		}
		if time.Now().After(deadline) {
			return errors.New("upgrade: the server does not end")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *upgradeCmd) program() (string, error) {
	program := c.Program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return "", err
		}
	}
	program, err := filepath.EvalSymlinks(program)
	if err == nil {
		_, err = exec.LookPath(program) // may it be executed
	}
	return program, err
}

// runs reports whether a process runs the program.
func runs(pid int, program string) bool {
	have, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	want, err := os.Stat(program)
	return err == nil && os.SameFile(have, want)
}
