package fetchurl

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"
)

// source is what a URL gives, read once.
type source struct {
	shown   string // the URL
	from    io.Reader
	close   func()
	failure error // which is final
}

// open returns the source of a URL when its first bytes can be read.
func open(ctx context.Context, address string, log io.Writer) (*source, error) {
	s := &source{shown: shown(address)}
	u, err := url.Parse(address)
	if err != nil {
		return nil, s.fail(cause(err))
	}
	switch {
	case u.Scheme == "file":
		f, err := openFile(u)
		if err != nil {
			return nil, s.fail(err)
		}
		s.from, s.close = f, func() { f.Close() }
		return s, nil
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, s.fail(errProtocol)
	case u.Host == "":
		return nil, s.fail(errors.New("it names no host"))
	}
	d := newDownload(ctx, u, &progress{log: log, what: s.shown, last: time.Now()})
	err = d.begin()
	s.from, s.close = d, d.end
	if err == nil && d.encoded {
		s.from, err = gzip.NewReader(d)
	}
	if err != nil {
		d.end()
		return nil, s.fail(err)
	}
	return s, nil
}

// Read is for package io.
func (s *source) Read(p []byte) (int, error) {
	if s.failure != nil {
		return 0, s.failure
	}
	n, err := s.from.Read(p)
	if err != nil && err != io.EOF {
		err = s.fail(err)
	}
	return n, err
}

func (s *source) fail(err error) error {
	s.failure = fmt.Errorf("unable to download '%s': %w", s.shown, err)
	return s.failure
}

// openFile opens what a URL of a file names in the sandbox. As libcurl has it, a host
// may be this one.
func openFile(u *url.URL) (*os.File, error) {
	if u.Host != "" && u.Host != "localhost" && u.Host != "127.0.0.1" {
		return nil, errors.New("it is a file of another host")
	}
	return os.Open(u.Path)
}

// shown is a URL as others may see it.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	return u.Redacted()
}

// progress says now and then how much has come: so what stands still is silent, and what
// does not is not.
type progress struct {
	log  io.Writer
	what string
	last time.Time
}

// progressInterval is how long progress is silent.
const progressInterval = 10 * time.Second

// come tells that have bytes have come, of size if that is not negative.
func (p *progress) come(have, size int64) {
	if time.Since(p.last) < progressInterval {
		return
	}
	p.last = time.Now()
	if size < 0 {
		fmt.Fprintf(p.log, "'%s': %d MiB\n", p.what, have>>20)
	} else {
		fmt.Fprintf(p.log, "'%s': %d of %d MiB\n", p.what, have>>20, size>>20)
	}
}

// say tells what went wrong, and is tried again.
func (p *progress) say(err error, delay time.Duration) {
	fmt.Fprintf(p.log, "unable to download '%s': %v; trying again in %v\n", p.what, err, delay.Round(time.Millisecond))
}
