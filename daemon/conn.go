package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// unreadTime is how long a server that ends waits for a client to read any of an answer
// that fills its socket, or for the first of what it asks. Whoever reads, however slowly,
// needs less for that. What was read just before may make it twice as long.
const unreadTime = 200 * time.Millisecond

// listener is a net.Listener whose connections end with the server.
type listener struct {
	net.Listener
	server *Server
}

// acceptPause is how long nobody is taken after somebody could not be.
const acceptPause = 50 * time.Millisecond

// Accept goes on when the kernel has no memory, or no descriptor, for a client: it may have
// them for the next one, and whoever is not taken waits for ever. Package http
// would give up but for the latter.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	for ; err != nil; c, err = l.Listener.Accept() {
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		time.Sleep(acceptPause)
	}
	mine := &conn{Conn: c, server: l.server}
	mine.forget = context.AfterFunc(l.server.ctx, mine.hasten)
	return mine, nil
}

// conn is a connection that keeps the server from its end only as long as its client
// does something. One that is stopped, as `status --watch` by a terminal, does not.
type conn struct {
	net.Conn
	server *Server
	heard  atomic.Bool // the client has sent something
	forget func() bool
}

// hasten is called when the server ends.
func (c *conn) hasten() {
	end := time.Now().Add(unreadTime)
	_ = c.SetWriteDeadline(end) // of one that waits already
	if !c.heard.Load() {
		_ = c.SetReadDeadline(end)
	}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	for written := 0; ; {
		before := c.unread()
		if c.server.ctx.Err() != nil {
			_ = c.SetWriteDeadline(time.Now().Add(unreadTime))
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		// Who waits for a Unix socket that is full hears of it only when most of what it has
		// was read.
		read := n > 0 || c.unread() < before
		if !read || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
	}
}

func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}
