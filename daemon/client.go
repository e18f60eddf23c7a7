package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"

	"storefs/normaliser"
	"storefs/store"
	"storefs/storeexpr"
)

// Client asks the owner of a state directory. Its methods may be called from
// any goroutine; ending their ctx ends what the owner does for them.
type Client struct {
	http    http.Client
	hello   Hello
	session *http.Response
	piece   int // bytes of text that are sent at a time
	longest int // bytes that a request in JSON may have
}

// Dial connects to the socket, or returns ErrNoServer, or ErrClosing. A client
// that only watches does not keep the owner from ending. Close the client.
func Dial(ctx context.Context, socket string, watch bool) (*Client, error) {
	if _, err := os.Lstat(socket); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w at %s", ErrNoServer, socket)
	}
	c := &Client{piece: maxPiece, longest: maxBody}
	c.http.Transport = &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, socket) },
		DisableCompression: true,
	}
	q := url.Values{}
	if watch {
		q.Set("watch", "1")
	}
	if err := c.begin(ctx, q); err != nil {
		return nil, err
	}
	return c, nil
}

// begin begins the session.
func (c *Client) begin(ctx context.Context, q url.Values) error {
	// It outlives ctx, which is for connecting only.
	session, end := context.WithCancel(context.WithoutCancel(ctx))
	connected := context.AfterFunc(ctx, end)
	res, err := c.get(session, "session", q)
	if err == nil {
		c.session = res
		if err = json.NewDecoder(res.Body).Decode(&c.hello); err != nil {
			err = transportError(ctx, err)
		}
	}
	if !connected() {
		err = transportError(ctx, ctx.Err())
	}
	if err != nil {
		if c.session != nil {
			c.session.Body.Close()
		}
		end()
		c.http.CloseIdleConnections()
		return err
	}
	return nil
}

// Hello is what the owner said of itself.
func (c *Client) Hello() Hello { return c.hello }

// Close leaves the owner.
func (c *Client) Close() {
	c.session.Body.Close()
	c.http.CloseIdleConnections()
}

// do sends a request and returns a response with status 200.
func (c *Client) do(ctx context.Context, method, name string, q url.Values, body io.Reader) (*http.Response, error) {
	u := "http://storefs" + prefix + name
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	local := &localReader{r: body}
	req, err := http.NewRequestWithContext(ctx, method, u, local)
	if err != nil {
		return nil, err
	}
	if body == http.NoBody {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	res, err := c.http.Do(req)
	if err != nil {
		if err := local.failed(); err != nil {
			return nil, err
		}
		if errors.Is(err, ErrNoServer) {
			return nil, ErrNoServer
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, transportError(ctx, err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		if err := local.failed(); err != nil {
			return nil, err // the owner says just that it got no more
		}
		return nil, responseError(res)
	}
	return res, nil
}

func (c *Client) get(ctx context.Context, name string, q url.Values) (*http.Response, error) {
	return c.do(ctx, http.MethodGet, name, q, http.NoBody)
}

func (c *Client) post(ctx context.Context, name string, v any) (*http.Response, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, name, b)
}

// send posts what the owner would refuse in the middle, if it is too long, by
// ending the connection: so it is not begun.
func (c *Client) send(ctx context.Context, name string, body []byte) (*http.Response, error) {
	if len(body) > c.longest {
		return nil, fmt.Errorf("%s: the request has %d bytes, more than the %d that the owner of the store takes: ask for less at a time: %w", name, len(body), c.longest, store.ErrRefused)
	}
	return c.do(ctx, http.MethodPost, name, nil, bytes.NewReader(body))
}

// decode reads the JSON answer of a request.
func decode[T any](ctx context.Context, res *http.Response, err error) (T, error) {
	var v T
	if err != nil {
		return v, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		return v, transportError(ctx, err)
	}
	return v, nil
}

// follow reads the stream that answers a request.
func follow[E, R any](ctx context.Context, res *http.Response, err error, each func(E)) (R, error) {
	var r R
	if err != nil {
		return r, err
	}
	defer res.Body.Close()
	result, err := readStream[E, R](res.Body, each)
	if result != nil {
		r = *result
	}
	if err != nil && (errors.Is(err, io.ErrUnexpectedEOF) || ctx.Err() != nil) {
		err = transportError(ctx, err)
	}
	return r, err
}

// copyBody writes the body that answers a request to w.
func copyBody(ctx context.Context, w io.Writer, res *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer res.Body.Close()
	out := &localWriter{w: w}
	if _, err := io.Copy(out, res.Body); err != nil {
		if out.err != nil {
			return out.err
		}
		return transportError(ctx, err)
	}
	end := res.Trailer.Get(errorTrailer)
	var remote *wireError
	if err := json.Unmarshal([]byte(end), &remote); err != nil {
		return transportError(ctx, io.ErrUnexpectedEOF)
	}
	return remote.decode()
}

// localReader tells errors of reading what is sent from those of sending it.
// The connection's own goroutine reads.
type localReader struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (l *localReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
	}
	return n, err
}

func (l *localReader) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// localWriter tells errors of writing here from those of reading there.
type localWriter struct {
	w   io.Writer
	err error
}

func (l *localWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if err != nil {
		l.err = err
	}
	return n, err
}

// Realise asks for paths and waits; each, which may be nil, gets the events of
// their goals and estimates. There may be a result although there is an error
// too.
func (c *Client) Realise(ctx context.Context, req RealiseRequest, each func(Seen)) (normaliser.Result, error) {
	body, err := encodeRequest(&req)
	if err != nil {
		return normaliser.Result{}, err
	}
	res, err := c.send(ctx, "realise", body)
	return follow[Seen, normaliser.Result](ctx, res, err, each)
}

// Plan says what Realise would do.
func (c *Client) Plan(ctx context.Context, targets []store.Path) (normaliser.Plan, error) {
	res, err := c.post(ctx, "plan", pathsRequest{targets})
	return decode[normaliser.Plan](ctx, res, err)
}

// Cancel ends what is being done for targets, whoever waits for it. It returns for each
// of them the goal that has ended, "" if there was none.
func (c *Client) Cancel(ctx context.Context, targets []store.Path) ([]store.Path, error) {
	res, err := c.post(ctx, "cancel", cancelRequest{Paths: targets})
	return decode[[]store.Path](ctx, res, err)
}

// CancelAll ends all that is being done, and returns what that was.
func (c *Client) CancelAll(ctx context.Context) ([]store.Path, error) {
	res, err := c.post(ctx, "cancel", cancelRequest{All: true})
	return decode[[]store.Path](ctx, res, err)
}

// Status is what the owner does now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	res, err := c.get(ctx, "status", nil)
	return decode[Status](ctx, res, err)
}

// Watch calls each with the status, and then with everything that happens,
// until ctx ends or the owner does. It is for clients that were dialled to
// watch.
func (c *Client) Watch(ctx context.Context, logs bool, each func(Seen)) error {
	q := url.Values{}
	if logs {
		q.Set("logs", "1")
	}
	res, err := c.get(ctx, "watch", q)
	_, err = follow[Seen, struct{}](ctx, res, err, each)
	return err
}

// Stop asks the owner to end. It returns before that has happened.
func (c *Client) Stop(ctx context.Context) error {
	res, err := c.post(ctx, "stop", nil)
	_, err = decode[Hello](ctx, res, err)
	return err
}

// Upgrade asks the owner to let program take its place. When it returns nil,
// that one is waiting for the owner to end.
func (c *Client) Upgrade(ctx context.Context, program string) error {
	res, err := c.post(ctx, "upgrade", upgradeRequest{program})
	_, err = decode[Hello](ctx, res, err)
	return err
}

// AddNAR adds a source from its NAR.
func (c *Client) AddNAR(ctx context.Context, name string, recursive bool, algo store.Algo, nar io.Reader) (store.Info, error) {
	q := url.Values{"name": {name}, "algo": {string(algo)}}
	if !recursive {
		q.Set("flat", "1")
	}
	res, err := c.do(ctx, http.MethodPost, "nar", q, nar)
	return decode[store.Info](ctx, res, err)
}

// AddTexts adds text files, each after those that it refers to, and returns
// their paths.
func (c *Client) AddTexts(ctx context.Context, texts []Text) ([]store.Path, error) {
	return c.addAll(ctx, "texts", texts)
}

// AddExprs adds store expressions, each after its inputs, and returns their
// paths.
func (c *Client) AddExprs(ctx context.Context, exprs []Text) ([]store.Path, error) {
	return c.addAll(ctx, "exprs", exprs)
}

// maxPiece is how much text is sent at a time. Expressions of one piece become
// valid together.
const maxPiece = 64 << 20

func (c *Client) addAll(ctx context.Context, name string, texts []Text) ([]store.Path, error) {
	var all []store.Path
	for len(texts) > 0 {
		n, size := 0, 0
		for n < len(texts) && (n == 0 || size+len(texts[n].Text) <= c.piece) {
			size += len(texts[n].Text)
			n++
		}
		res, err := c.post(ctx, name, texts[:n])
		paths, err := decode[[]store.Path](ctx, res, err)
		if err != nil {
			return nil, err
		}
		all = append(all, paths...)
		texts = texts[n:]
	}
	return all, nil
}

// Missing gives those of paths that are not valid, or valid and lost: that would
// be put back if it is added.
func (c *Client) Missing(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	res, err := c.post(ctx, "missing", pathsRequest{paths})
	return decode[[]store.Path](ctx, res, err)
}

// maxDeclared is how many declarations are sent at a time.
const maxDeclared = 50_000

// MissingExprs gives those of declared, store expressions, that something would change
// of if they are added.
func (c *Client) MissingExprs(ctx context.Context, declared []Declaration) ([]store.Path, error) {
	var all []store.Path
	for some := range slices.Chunk(declared, maxDeclared) {
		res, err := c.post(ctx, "missing-exprs", some)
		paths, err := decode[[]store.Path](ctx, res, err)
		if err != nil {
			return nil, err
		}
		all = append(all, paths...)
	}
	return all, nil
}

// AddSubstitute says that realising expr makes p valid.
func (c *Client) AddSubstitute(ctx context.Context, p, expr store.Path) error {
	res, err := c.post(ctx, "substitute", substituteRequest{p, expr})
	_, err = decode[struct{}](ctx, res, err)
	return err
}

// Import reads a `nix-store --export` stream and returns the paths in it.
func (c *Client) Import(ctx context.Context, r io.Reader) ([]store.Path, error) {
	res, err := c.do(ctx, http.MethodPost, "import", nil, r)
	return decode[[]store.Path](ctx, res, err)
}

// ImportExprs makes the owner read store expressions, with what they name and
// lies beside them, from files with absolute names. It returns their paths.
func (c *Client) ImportExprs(ctx context.Context, files []string) ([]store.Path, error) {
	res, err := c.post(ctx, "import-exprs", filesRequest{files})
	return decode[[]store.Path](ctx, res, err)
}

// Export writes a `nix-store --export` stream of paths.
func (c *Client) Export(ctx context.Context, w io.Writer, paths []store.Path) error {
	res, err := c.post(ctx, "export", pathsRequest{paths})
	return copyBody(ctx, w, res, err)
}

// Info is what is registered of a valid path.
func (c *Client) Info(ctx context.Context, p store.Path) (store.Info, error) {
	res, err := c.get(ctx, "info", url.Values{"path": {string(p)}})
	return decode[store.Info](ctx, res, err)
}

// Expr reads a store expression that the store has.
func (c *Client) Expr(ctx context.Context, p store.Path) (storeexpr.Expr, error) {
	var text bytes.Buffer
	res, err := c.get(ctx, "expr", url.Values{"path": {string(p)}})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(&text, res.Body); err != nil {
		return nil, transportError(ctx, err)
	}
	e, err := storeexpr.Parse(text.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	return e, nil
}

// Related answers as Querier.Related does.
func (c *Client) Related(ctx context.Context, rel Relation, p store.Path) ([]store.Path, error) {
	res, err := c.get(ctx, "related", url.Values{"relation": {string(rel)}, "path": {string(p)}})
	return decode[[]store.Path](ctx, res, err)
}

// Graph is what paths need, transitively: by references, or (build) by inputs
// of derivations.
func (c *Client) Graph(ctx context.Context, paths []store.Path, build bool) (Graph, error) {
	res, err := c.post(ctx, "graph", graphRequest{paths, build})
	return decode[Graph](ctx, res, err)
}

// Why says what became of p.
func (c *Client) Why(ctx context.Context, p store.Path) (*Why, error) {
	res, err := c.get(ctx, "why", url.Values{"path": {string(p)}})
	return decode[*Why](ctx, res, err)
}

// Log writes p's log to w; with follow as long as its builder runs.
func (c *Client) Log(ctx context.Context, p store.Path, follow bool, w io.Writer) error {
	q := url.Values{"path": {string(p)}}
	if follow {
		q.Set("follow", "1")
	}
	res, err := c.get(ctx, "log", q)
	return copyBody(ctx, w, res, err)
}

// Verify checks the store and calls each with everything that is wrong.
func (c *Client) Verify(ctx context.Context, o VerifyOptions, each func(Damage)) (Verified, error) {
	res, err := c.post(ctx, "verify", o)
	return follow[Damage, Verified](ctx, res, err, each)
}

// Delete makes paths invalid and removes them, unless something else needs
// them. It returns everything that was deleted.
func (c *Client) Delete(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	res, err := c.post(ctx, "delete", pathsRequest{paths})
	return decode[[]store.Path](ctx, res, err)
}
