package daemon

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"storefs/normaliser"
)

type callerKey struct{}

// withCaller is ctx with the process at the other end of c.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	if caller := peer(c); caller != nil {
		return context.WithValue(ctx, callerKey{}, caller)
	}
	return ctx
}

// withOwnCaller is ctx with this process, for requests that it makes itself.
func withOwnCaller(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, named(&normaliser.Caller{PID: os.Getpid(), UID: uint32(os.Geteuid())}))
}

// callerOf is the process whose request has ctx, nil if it is not known.
func callerOf(ctx context.Context) *normaliser.Caller {
	c, _ := ctx.Value(callerKey{}).(*normaliser.Caller)
	return c
}

// peer is the process that connected, as the kernel says.
func peer(c net.Conn) *normaliser.Caller {
	if ours, ok := c.(*conn); ok {
		c = ours.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil || err != nil {
		return nil
	}
	return named(&normaliser.Caller{PID: int(cred.Pid), UID: cred.Uid})
}

// named adds the name of the caller's command, if it lives.
func named(caller *normaliser.Caller) *normaliser.Caller {
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(caller.PID) + "/comm"); err == nil {
		caller.Command = strings.TrimSuffix(string(b), "\n")
	}
	return caller
}
