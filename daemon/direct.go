package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// Dial is Dial for a client in the server's own process: without a socket, and
// without HTTP on the wire, which a command that finds everything done would
// notice. Requests are answered as those of other processes are.
func (s *Server) Dial(ctx context.Context) (*Client, error) {
	c := &Client{piece: maxPiece, longest: maxBody}
	c.http.Transport = direct{s}
	if err := c.begin(ctx, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// direct answers each request by a goroutine, which ends with the server at the
// latest.
type direct struct{ server *Server }

var _ http.RoundTripper = direct{}

// RoundTrip is http.RoundTripper's.
func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, leave := context.WithCancel(withOwnCaller(d.server.ctx))
	body := &answerBody{leave: leave}
	body.changed.L = &body.mu
	stop := context.AfterFunc(req.Context(), func() {
		body.fail(req.Context().Err())
		leave()
	})
	asked := req.WithContext(ctx)
	if asked.Body == nil {
		asked.Body = http.NoBody
	}
	w := &answerWriter{header: make(http.Header), body: body, begun: make(chan struct{})}
	d.server.requests.Add(1)
	go func() {
		defer d.server.requests.Done()
		defer stop()
		defer leave()
		d.server.http.Handler.ServeHTTP(w, asked)
		_ = asked.Body.Close()
		w.end()
	}()
	select {
	case <-w.begun:
		w.response.Request = req
		return w.response, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// answerWriter is what a handler writes an answer to.
type answerWriter struct {
	header   http.Header
	body     *answerBody
	response *http.Response // nil until it has begun
	begun    chan struct{}  // closed when it has
}

var _ http.Flusher = (*answerWriter)(nil)

// Header is http.ResponseWriter's.
func (w *answerWriter) Header() http.Header { return w.header }

// WriteHeader is http.ResponseWriter's.
func (w *answerWriter) WriteHeader(status int) {
	if w.response != nil {
		return
	}
	w.response = &http.Response{
		Status: fmt.Sprint(status, " ", http.StatusText(status)), StatusCode: status,
		Header: w.header.Clone(), Trailer: make(http.Header), Body: w.body, ContentLength: -1,
	}
	close(w.begun)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.write(p)
}

// Flush is http.Flusher's. Of the body, nothing is kept back.
func (w *answerWriter) Flush() { w.WriteHeader(http.StatusOK) }

// EnableFullDuplex is for http.ResponseController: it is so.
func (w *answerWriter) EnableFullDuplex() error { return nil }

// end is called when the handler has returned.
func (w *answerWriter) end() {
	w.WriteHeader(http.StatusOK)
	// Whoever reads to the end of the body finds it.
	if v := w.header.Get(errorTrailer); v != "" {
		w.response.Trailer.Set(errorTrailer, v)
	}
	w.body.fail(io.EOF)
}

// answerBody is an answer on its way, of which as much is kept as a socket would
// hold: the server's goroutines need not wait for the client's each time.
type answerBody struct {
	leave context.CancelFunc // tells the handler that nobody reads any more

	mu      sync.Mutex
	changed sync.Cond
	kept    []byte // what was not read is at its end
	read    int    // how much was, of that
	err     error  // comes after what is kept
	closed  bool   // by the reader
}

// maxKept is how much a body keeps before its writer waits.
const maxKept = 256 << 10

func (b *answerBody) write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.kept)-b.read >= maxKept && b.err == nil && !b.closed {
		b.changed.Wait()
	}
	if b.err != nil || b.closed {
		return 0, io.ErrClosedPipe
	}
	if b.read == len(b.kept) {
		b.kept, b.read = b.kept[:0], 0
	}
	b.kept = append(b.kept, p...)
	b.changed.Broadcast()
	return len(p), nil
}

// fail ends the body with err, if it has not ended.
func (b *answerBody) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.changed.Broadcast()
	}
}

// Read is io.Reader's.
func (b *answerBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.read == len(b.kept) && b.err == nil && !b.closed {
		b.changed.Wait()
	}
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.read == len(b.kept):
		return 0, b.err
	}
	n := copy(p, b.kept[b.read:])
	b.read += n
	b.changed.Broadcast()
	return n, nil
}

// Close is io.Closer's.
func (b *answerBody) Close() error {
	b.mu.Lock()
	b.closed = true
	b.changed.Broadcast()
	b.mu.Unlock()
	b.leave()
	return nil
}
