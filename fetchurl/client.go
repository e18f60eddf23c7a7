package fetchurl

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	userAgent      = "storefs"
	connectTimeout = 15 * time.Second // as in Nix
	maxRedirects   = 10               // likewise
	maxHeader      = 1 << 20          // bytes
)

var (
	errProtocol  = &finalError{errors.New("its protocol is none of http, https and file")}
	errRedirects = &finalError{fmt.Errorf("it leads on more than %d times", maxRedirects)}
)

// newClient makes a client that knows the network only by what is in a sandbox with the
// host's: no name service of the C library, and certificates at a usual place.
func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: connectTimeout, Resolver: &net.Resolver{PreferGo: true}}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    connectTimeout,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // what is not asked for is not undone behind our back
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(r *http.Request, before []*http.Request) error {
			switch {
			case r.URL.Scheme != "http" && r.URL.Scheme != "https":
				return fmt.Errorf("it leads on to '%s': %w", r.URL.Redacted(), errProtocol)
			case len(before) > maxRedirects:
				return errRedirects
			}
			return nil
		},
	}
}

// proxies are the variables by which package net/http knows the proxies that libcurl
// would use with those of getenv.
func proxies(getenv func(string) string) []string {
	var env []string
	for _, v := range []struct {
		name  string
		names []string
	}{
		{"HTTP_PROXY", []string{"http_proxy", "all_proxy", "ALL_PROXY"}}, // HTTP_PROXY may be a header that a CGI got
		{"HTTPS_PROXY", []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}},
		{"NO_PROXY", []string{"no_proxy", "NO_PROXY"}},
	} {
		for _, name := range v.names {
			if value := getenv(name); value != "" {
				env = append(env, v.name+"="+value)
				break
			}
		}
	}
	return env
}

// finalError is an error that would come again.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// statusError is an answer that is not what was asked for.
type statusError struct {
	code       int
	retryAfter time.Duration
}

func newStatusError(r *http.Response) *statusError {
	e := &statusError{code: r.StatusCode}
	text := r.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		e.retryAfter = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		e.retryAfter = time.Until(at)
	}
	return e
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP error %d", e.code) }

// isBusy reports whether the server asks for patience.
func (e *statusError) isBusy() bool {
	return e.code == http.StatusTooManyRequests || e.code == http.StatusServiceUnavailable
}

// isFinal reports whether err would come again. As in Nix, most others are taken for
// what passes.
func isFinal(err error) bool {
	if errors.As(err, new(*finalError)) {
		return true
	}
	status := new(statusError)
	if !errors.As(err, &status) {
		return false
	}
	switch status.code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return true
	}
	return status.code >= 400 && status.code < 500
}

// cause is err without the URL that package net/url puts before it.
func cause(err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		return e.Err
	}
	return err
}
