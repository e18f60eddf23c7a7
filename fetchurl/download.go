package fetchurl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// As in Nix.
const (
	maxTries   = 5
	firstDelay = 250 * time.Millisecond // each next one is twice as long
	busyDelay  = 5 * time.Second        // of a server that has too much to do
	maxStall   = 5 * time.Minute        // without a byte
)

// maxRetryAfter is the longest that a server can have us wait.
const maxRetryAfter = time.Minute

// download reads what a URL gives over HTTP. What breaks off is tried again and, where
// something was read already, goes on from there, if the server can do that.
type download struct {
	ctx      context.Context
	url      *url.URL
	client   *http.Client
	progress *progress
	tries    int // that failed

	body      io.ReadCloser // nil: there is none yet, or none any more
	stop      context.CancelFunc
	stall     *time.Timer // calls stop
	have      int64       // bytes that were read
	size      int64       // -1: unknown
	encoded   bool        // by gzip
	resumable bool
}

func newDownload(ctx context.Context, u *url.URL, p *progress) *download {
	return &download{ctx: ctx, url: u, client: newClient(), progress: p}
}

// begin returns when there is something to read, or the end.
func (d *download) begin() error {
	for d.body == nil {
		if err := d.request(); err != nil {
			if err := d.again(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read is for package io.
func (d *download) Read(p []byte) (int, error) {
	for {
		if err := d.begin(); err != nil {
			return 0, err
		}
		d.stall.Reset(maxStall)
		n, err := d.body.Read(p)
		d.stall.Stop()
		d.have += int64(n)
		d.progress.come(d.have, d.size)
		if err == io.EOF {
			return n, err
		}
		if err != nil {
			err = d.again(d.broken(err))
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// broken is why the body ended with err.
func (d *download) broken(err error) error {
	err = d.stopped(err)
	if d.size >= 0 {
		return fmt.Errorf("it broke off after %d of %d bytes: %w", d.have, d.size, err)
	}
	return fmt.Errorf("it broke off after %d bytes: %w", d.have, err)
}

// stopped is the reason for which this end stopped what ended with err, or err.
func (d *download) stopped(err error) error {
	if errors.Is(err, context.Canceled) && d.ctx.Err() == nil {
		return fmt.Errorf("nothing came for %v", maxStall)
	}
	return err
}

// end lets the connection go.
func (d *download) end() {
	if d.stop != nil {
		d.stall.Stop()
		d.stop()
		d.stop = nil
	}
	if d.body != nil {
		d.body.Close()
		d.body = nil
	}
}

// again returns nil when it is time to try again what ended with err, or else err.
func (d *download) again(err error) error {
	d.end()
	d.tries++
	if d.tries == maxTries || isFinal(err) || d.have > 0 && !d.resumable {
		return err
	}
	delay, least := firstDelay, time.Duration(0)
	if status := new(statusError); errors.As(err, &status) && status.isBusy() {
		delay, least = busyDelay, status.retryAfter
	}
	// Not all who wait for the same server are to come back at once.
	delay = time.Duration(float64(delay<<(d.tries-1)) * (1 + rand.Float64()/2))
	delay = max(delay, min(least, maxRetryAfter))
	d.progress.say(err, delay)
	select {
	case <-time.After(delay):
		return nil
	case <-d.ctx.Done():
		return err
	}
}

// request asks for what was not read yet.
func (d *download) request() error {
	ctx, stop := context.WithCancel(d.ctx)
	d.stop = stop
	d.stall = time.AfterFunc(maxStall, stop)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		return &finalError{err}
	}
	r.Header.Set("User-Agent", userAgent)
	if d.have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
	}
	answer, err := d.client.Do(r)
	d.stall.Stop()
	if err != nil {
		return d.stopped(cause(err))
	}
	if err := d.take(answer); err != nil {
		answer.Body.Close()
		return err
	}
	d.body = answer.Body
	return nil
}

// take judges an answer by its head.
func (d *download) take(answer *http.Response) error {
	switch answer.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent, http.StatusPartialContent, http.StatusNotModified:
	default:
		return newStatusError(answer)
	}
	encoding := strings.ToLower(answer.Header.Get("Content-Encoding"))
	encoded := encoding == "gzip" || encoding == "x-gzip"
	if !encoded && encoding != "" && encoding != "identity" {
		return &finalError{fmt.Errorf("its content encoding is %q, for which nobody has asked", encoding)}
	}
	if d.have == 0 {
		d.size, d.encoded = answer.ContentLength, encoded
		d.resumable = !encoded && strings.EqualFold(answer.Header.Get("Accept-Ranges"), "bytes")
		return nil
	}
	from, _, _ := strings.Cut(strings.TrimPrefix(answer.Header.Get("Content-Range"), "bytes "), "-")
	if at, err := strconv.ParseInt(from, 10, 64); answer.StatusCode != http.StatusPartialContent || err != nil || at != d.have || encoded {
		return &finalError{fmt.Errorf("it broke off after %d bytes, and the server does not go on from there", d.have)}
	}
	return nil
}
