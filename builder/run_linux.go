package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"storefs/event"
	"storefs/store"
)

// run runs the builder in a sandbox until it is reaped. One that was not begun by a
// spawner that died is begun by the next, or without one: it might be what ends them.
// What a spawner is short of, a child of our own may have.
func (b *build) run(ctx context.Context, env []string) (started time.Time, took time.Duration, err error) {
	for range 2 {
		started, took, err = b.attempt(ctx, env, true)
		short := errors.As(err, new(shortage))
		if !short && !errors.Is(err, errSpawnerDied) {
			return started, took, err
		}
		b.phase(event.PhaseSandbox)
		if short {
			break
		}
	}
	return b.attempt(ctx, env, false)
}

// shortage is the error of a build that a spawner did not begin, as it is short of
// something.
type shortage struct{ error }

func (s shortage) Unwrap() error { return s.error }

// isShort reports whether errno says that there is not enough of something, of which
// more may be had elsewhere or later: descriptors, processes, memory, namespaces.
func isShort(errno unix.Errno) bool {
	return passes(errno) || errno == unix.EUSERS
}

// attempt runs the builder in a sandbox until it is reaped. Nothing of it is left
// then: it is the first process of its pid namespace, which dies with it. The
// end of its output means nothing: a builder may close it and go on, and the
// output may have got into the hands of others.
func (b *build) attempt(ctx context.Context, env []string, spawned bool) (started time.Time, took time.Duration, err error) {
	output, w, err := logPipe()
	if err != nil {
		return started, 0, err
	}
	defer output.Close()
	// A builder that opens /dev/stdout or /dev/stderr asks for the rights of the pipe.
	if err := b.ids.giveOpen(w); err != nil {
		w.Close()
		return started, 0, fmt.Errorf("give the builder its log: %w", err)
	}
	c, err := b.spawn(ctx, env, w, spawned)
	w.Close()
	if err != nil {
		return started, 0, err
	}
	wanted := b.job.Wanted
	var again timer
	defer again.stop()
	step := func() {
		if !c.stepBack(wanted != nil) {
			again.set(stepBackAgain)
		}
	}
	if wanted != nil {
		step()
	}
	buf, _ := b.buffers.Get().(*logBuffer)
	if buf == nil {
		buf = new(logBuffer)
	}
	defer b.buffers.Put(buf)
	logged := make(chan error, 1)
	var logEnd <-chan error // nil: nobody reads the log
	readLog := func() {
		logEnd = logged
		go func() {
			// While the builder runs already.
			err := b.log.create()
			if err == nil {
				err = b.readLog(output, buf)
			}
			logged <- err
		}()
	}

	var limit timer
	defer limit.stop()
	cancelled := ctx.Done()
	stop := func(why error) {
		if err == nil {
			err = why
		}
		c.kill()
	}
	running := func() {
		b.ran, b.shortages = true, b.memory.before()
		b.phase(event.PhaseBuild)
		started = time.Now()
		b.log.stir()
		if at, _ := b.limit(started); !at.IsZero() {
			limit.set(time.Until(at))
		}
	}
	var granted <-chan struct{}
	var relay <-chan Relay
	switch {
	case c.grant != nil:
		granted, relay = b.job.Turn.Granted, b.job.Turn.Relay
	case c.start == nil:
		readLog()
		running()
	default:
		readLog()
	}
	turn := func() {
		granted, relay = nil, nil
		readLog()
		running()
	}
	var status unix.WaitStatus
	for reports := c.reports; reports != nil; {
		select {
		case <-granted:
			c.grant()
			turn()
		case r := <-relay:
			c.relay(r)
		case r, ok := <-reports:
			if granted != nil && ok && (r.says == saysEnded || r.says == saysNoExec) {
				// It took the place of another one, before that was heard of.
				select {
				case <-granted:
					turn()
				case <-ctx.Done(): // which may have been seen already
				}
			}
			if r.next != "" {
				b.job.Relayed(r.next)
			}
			switch {
			case !ok:
				reports = nil
			case r.says == saysReady:
				running()
				c.start()
			case r.says == saysEnded:
				status, took = r.ending.status, time.Since(started)
				if r.ending.started != 0 {
					started, took = time.Unix(0, r.ending.started), time.Duration(r.ending.took)
				}
			default:
				b.ran = b.ran && r.says == saysNoExec
				why := r.err(b.job.Derivation.Builder)
				if r.says == saysNoExec && r.errno == unix.EACCES && isNoExec(b.opts.Real) {
					why = fmt.Errorf("nothing in %s can be executed: its file system is mounted noexec", b.opts.Real)
				}
				if r.says == saysFailed && c.pid == 0 && isShort(r.errno) {
					why = shortage{why}
				}
				stop(why)
			}
		case <-limit.ended():
			at, why := b.limit(started)
			if time.Now().Before(at) {
				limit.set(time.Until(at))
			} else {
				stop(why)
			}
		case why := <-logEnd:
			logEnd = nil
			if why != nil {
				stop(why)
			}
		case <-wanted:
			wanted = nil
			step()
		case <-again.ended():
			step()
		case <-cancelled:
			cancelled = nil
			stop(ctx.Err())
		}
	}
	if logEnd != nil {
		// Whoever else has the pipe may hold it open, but what the builder
		// wrote is in it by now.
		_ = output.SetReadDeadline(time.Unix(1, 0))
		if why := <-logEnd; why != nil && err == nil {
			err = why
		}
	}
	if err == nil && granted != nil {
		err = ctx.Err() // it ended before it was heard that it had begun
	}
	if err == nil {
		err = b.drainLog(output, buf)
	}
	b.log.flush()
	if err == nil {
		err = ended(b.job.Derivation.Builder, status)
	}
	return started, took, err
}

// isNoExec reports whether no builder in dir can be executed, whichever it is.
func isNoExec(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_NOEXEC != 0
}

// spawn starts the child, if spawned by a spawner where it can. What nobody waits for
// is a child of our own, whose priority can be changed; and so is a builtin builder, as
// this program is in no sandbox that a spawner makes.
func (b *build) spawn(ctx context.Context, env []string, log *os.File, spawned bool) (*child, error) {
	if _, fixed := b.job.Derivation.Fixed(); spawned && !fixed && b.builtin == nil && len(b.binds) == 0 && b.job.Wanted == nil {
		if spawner := b.spawner.get(); spawner != nil {
			c, err := spawner.spawn(b.job.Drv, b.launch(env), log)
			if errors.Is(err, errSpawnerDied) {
				spawner.close() // get starts another one then
			}
			if err != nil && isShort(errnoOf(err)) {
				err = shortage{err}
			}
			return c, err
		}
	}
	if b.job.Turn != nil {
		select {
		case <-b.job.Turn.Granted:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return spawnSelf(b.spec(env), b.ids, log)
}

// limit is when the next limit is reached, as things are, and the error of that.
// The zero time means never.
func (b *build) limit(started time.Time) (at time.Time, why error) {
	if d := b.job.Limits.Timeout; d > 0 {
		at, why = started.Add(d), fail(store.CauseTimeout, "timed out after %s", d)
	}
	if d := b.job.Limits.MaxSilent; d > 0 {
		if silent := b.log.silentSince().Add(d); at.IsZero() || silent.Before(at) {
			at, why = silent, fail(store.CauseTimeout, "timed out after %s without output", d)
		}
	}
	return at, why
}

// ended says how a builder failed, if it did.
func ended(builder string, status unix.WaitStatus) error {
	switch {
	case status.Signaled():
		name := unix.SignalName(status.Signal())
		if name == "" {
			name = fmt.Sprintf("signal %d", status.Signal())
		}
		return &failed{cause: store.CauseBuilder, message: fmt.Sprintf("builder %s was killed by %s", path.Base(builder), name), signal: name}
	case status.ExitStatus() != 0:
		return &failed{
			cause: store.CauseBuilder, message: fmt.Sprintf("builder %s failed with exit status %d", path.Base(builder), status.ExitStatus()),
			status: status.ExitStatus(),
		}
	}
	return nil
}

// timer is a time.Timer that is not there until it is set: to have one, and wait
// for it, would wake a thread of Go's runtime for each build.
type timer struct{ *time.Timer }

func (t *timer) set(d time.Duration) {
	if t.Timer == nil {
		t.Timer = time.NewTimer(d)
	} else {
		t.Reset(d)
	}
}

// ended is nil if there is no timer.
func (t *timer) ended() <-chan time.Time {
	if t.Timer == nil {
		return nil
	}
	return t.C
}

func (t *timer) stop() {
	if t.Timer != nil {
		t.Stop()
	}
}
