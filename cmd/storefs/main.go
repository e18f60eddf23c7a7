// Storefs is the command: it parses arguments, opens what they need and wires
// the packages together. What there is to know about stores, builds and mounts
// is in those.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/holder"
)

func main() {
	// Before anything else: this process may have been started as a sandbox's
	// child, which becomes the builder here.
	builder.Child()
	if os.Args[0] == holder.Name {
		os.Exit(holdMount())
	}
	os.Exit(run())
}

// errInterrupted is why contexts end when a signal came.
var errInterrupted = errors.New("interrupted")

// run returns the exit status.
func run() int {
	// The first signal ends what was asked for; another one, or one that comes
	// when that has ended, also what others asked of this process.
	ctx, interrupt := context.WithCancelCause(context.Background())
	defer interrupt(nil)
	hard, kill := context.WithCancelCause(context.Background())
	defer kill(nil)
	a := &app{hard: hard, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for range signals {
			if ctx.Err() == nil && !a.draining.Load() {
				interrupt(errInterrupted)
			} else {
				kill(errInterrupted)
			}
		}
	}()
	defer func() {
		signal.Stop(signals)
		close(signals)
		<-listening
	}()

	err := a.run(ctx, os.Args[1:])
	a.draining.Store(true)
	if err != nil {
		a.report(err)
	}
	a.flush()
	return exitStatus(err)
}
