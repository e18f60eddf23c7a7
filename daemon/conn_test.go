package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"storefs/event"
	"storefs/normaliser"
)

// pipes is a listener whose connections are in this process's memory, and hold nothing.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial is the client's end of a new connection, over which request was sent.
func (l *pipes) dial(t *testing.T, request string) net.Conn {
	ours, theirs := net.Pipe()
	l.accepted <- theirs
	t.Cleanup(func() { ours.Close() })
	if _, err := io.WriteString(ours, request); err != nil {
		t.Fatal(err)
	}
	return ours
}

func (f *fake) servePipes(t *testing.T) (*Server, *pipes) {
	l := &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})}
	s := f.server()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, l
}

// Who does not read, or asks nothing, does not keep the owner from its end.
func TestEndOfWhoDoesNotRead(t *testing.T) {
	for name, request := range map[string]string{
		"watches":       "GET " + prefix + "watch HTTP/1.1\r\nHost: storefs\r\n\r\n",
		"asks":          "GET " + prefix + "status HTTP/1.1\r\nHost: storefs\r\n\r\n",
		"says nothing":  "",
		"stops to read": "GET " + prefix + "watch HTTP/1.1\r\nHost: storefs\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				s, l := f.servePipes(t)
				c := l.dial(t, request)
				if name == "stops to read" {
					if _, err := c.Read(make([]byte, 100)); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				f.events.Publish(event.Event{Kind: event.Log, Goal: path("a.drv")})
				began := time.Now()
				s.Close()
				if took := time.Since(began); took >= time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// Who reads slowly has all of the answer that it waits for.
func TestEndOfWhoReadsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		const targets = 1000
		f.realise = func(ctx context.Context, _ normaliser.Request) (*normaliser.Result, error) {
			<-ctx.Done()
			return &normaliser.Result{Targets: make([]normaliser.Target, targets)}, context.Cause(ctx)
		}
		s, l := f.servePipes(t)
		c := l.dial(t, fmt.Sprintf("POST %srealise HTTP/1.1\r\nHost: storefs\r\nContent-Length: 2\r\n\r\n{}", prefix))
		synctest.Wait()
		var closing sync.WaitGroup
		defer closing.Wait()
		closing.Go(s.Close)
		res, err := http.ReadResponse(bufio.NewReader(slowly{c}), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if n := strings.Count(string(b), `"realised":false`); n != targets || !strings.Contains(string(b), ErrClosing.Error()) || err != nil {
			t.Errorf("%d targets, %v: …%s", n, err, b[max(0, len(b)-200):])
		}
	})
}

// readMeanwhile has the other end read some while a Write waits.
type readMeanwhile struct {
	*net.UnixConn
	other net.Conn
	some  int64
}

func (c readMeanwhile) Write(p []byte) (int, error) {
	n, err := c.UnixConn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if _, err := io.CopyN(io.Discard, c.other, c.some); err != nil {
			return n, err
		}
	}
	return n, err
}

// Who waits to write hears of it only when most of what the socket has was read: whoever reads
// less in that time has what follows nevertheless.
func TestEndOfWhoReadsSome(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	ours, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	full := ours.(*net.UnixConn)
	block := make([]byte, 4096)
	for err == nil {
		if err = full.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err == nil {
			_, err = full.Write(block)
		}
	}
	ended, end := context.WithCancelCause(t.Context())
	end(ErrClosing)
	c := &conn{Conn: readMeanwhile{full, theirs, 40 << 10}, server: &Server{ctx: ended}}
	if n, err := c.Write(block); n != len(block) || err != nil {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}

// slowly reads, after a while each time.
type slowly struct{ r io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(unreadTime * 3 / 4)
	return s.r.Read(p)
}

// scarce is a listener for whose first clients the kernel has no memory.
type scarce struct {
	net.Listener
	left int
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.left > 0 {
		s.left--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", unix.ENOBUFS)}
	}
	return s.Listener.Accept()
}

func TestNoMemoryForAClient(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	serving(t, newFake(t).server(), &scarce{l, 2})
	c, err := Dial(t.Context(), socket, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}
