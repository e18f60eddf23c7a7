package fetchurl

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// answers are a server: each answers one request, the last one all that follow. What is
// not there is an error of the network.
type answers struct {
	list   []*http.Response
	ranges []string // what was asked for
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.ranges = append(a.ranges, r.Header.Get("Range"))
	next := a.list[0]
	if len(a.list) > 1 {
		a.list = a.list[1:]
	}
	if next == nil {
		return nil, errors.New("no route to host")
	}
	if next.Body == nil { // it never comes
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return next, nil
}

// answer is one whose body breaks off if size is more than what comes. Headers are pairs.
func answer(status int, body string, size int64, headers ...string) *http.Response {
	r := &http.Response{StatusCode: status, Header: http.Header{}, ContentLength: size}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	var content io.Reader = strings.NewReader(body)
	if int64(len(body)) < size {
		content = io.MultiReader(content, broken{})
	}
	r.Body = io.NopCloser(content)
	return r
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestDownload(t *testing.T) {
	const ranged, always = "Accept-Ranges", 10 * time.Hour
	ok := answer(200, "text", 4)
	for name, test := range map[string]struct {
		answers []*http.Response
		want    string // the content, or
		err     string // the end of the error
		ranges  string // of each request
		least   time.Duration
		most    time.Duration
	}{
		"at once":                 {answers: []*http.Response{ok}, want: "text", ranges: "[]"},
		"unreachable":             {answers: []*http.Response{nil}, err: "no route to host", ranges: "[    ]", least: 3750 * time.Millisecond, most: 5625 * time.Millisecond},
		"unreachable for a while": {answers: []*http.Response{nil, nil, nil, nil, answer(200, "text", 4)}, want: "text", ranges: "[    ]", least: 3750 * time.Millisecond, most: 5625 * time.Millisecond},
		"out of order":            {answers: []*http.Response{answer(500, "", 0), answer(408, "", 0), answer(200, "text", 4)}, want: "text", ranges: "[  ]", least: 750 * time.Millisecond, most: 1125 * time.Millisecond},
		"busy":                    {answers: []*http.Response{answer(429, "", 0), answer(200, "text", 4)}, want: "text", ranges: "[ ]", least: 5 * time.Second, most: 7500 * time.Millisecond},
		"busy until":              {answers: []*http.Response{answer(503, "", 0, "Retry-After", "20"), answer(200, "text", 4)}, want: "text", ranges: "[ ]", least: 20 * time.Second, most: 20 * time.Second},
		"busy for ever":           {answers: []*http.Response{answer(503, "", 0, "Retry-After", "2000000000"), answer(200, "text", 4)}, want: "text", ranges: "[ ]", least: time.Minute, most: time.Minute},
		"silent":                  {answers: []*http.Response{{}}, err: "nothing came for 5m0s", ranges: "[    ]", least: 25 * time.Minute, most: 26 * time.Minute},
		"broken": {
			answers: []*http.Response{answer(200, "te", 4)}, err: "it broke off after 2 of 4 bytes: unexpected EOF", ranges: "[]",
		},
		"broken before the first byte": {
			answers: []*http.Response{answer(200, "", 4), answer(200, "text", 4)}, want: "text", ranges: "[ ]", most: always,
		},
		"resumed": {
			answers: []*http.Response{
				answer(200, "te", 4, ranged, "bytes"), nil, answer(206, "x", 2, "Content-Range", "bytes 2-3/4"), answer(206, "t", 1, "Content-Range", "bytes 3-3/4"),
			},
			want: "text", ranges: "[ bytes=2- bytes=2- bytes=3-]", most: always,
		},
		"resumed from the beginning": {
			answers: []*http.Response{answer(200, "te", 4, ranged, "bytes"), answer(200, "text", 4)},
			err:     "it broke off after 2 bytes, and the server does not go on from there", ranges: "[ bytes=2-]", most: always,
		},
		"resumed elsewhere": {
			answers: []*http.Response{answer(200, "te", 4, ranged, "bytes"), answer(206, "ext", 3, "Content-Range", "bytes 1-3/4")},
			err:     "the server does not go on from there", ranges: "[ bytes=2-]", most: always,
		},
		"no resumption of what is encoded": {
			answers: []*http.Response{answer(200, "te", 4, ranged, "bytes", "Content-Encoding", "gzip")}, err: "unexpected EOF", ranges: "[]",
		},
		"unknown encoding": {answers: []*http.Response{answer(200, "text", 4, "Content-Encoding", "br")}, err: `its content encoding is "br", for which nobody has asked`, ranges: "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, err := url.Parse("http://host/file")
				if err != nil {
					t.Fatal(err)
				}
				var log strings.Builder
				d := newDownload(t.Context(), u, &progress{log: &log, what: "URL", last: time.Now()})
				defer d.end()
				server := &answers{list: test.answers}
				d.client = &http.Client{Transport: server}
				began := time.Now()
				got, err := io.ReadAll(d)
				took := time.Since(began)
				if test.err == "" && (err != nil || string(got) != test.want) {
					t.Errorf("%q, %v", got, err)
				}
				if test.err != "" && (err == nil || !strings.HasSuffix(err.Error(), test.err)) {
					t.Errorf("%v, want %s", err, test.err)
				}
				if ranges := fmt.Sprint(server.ranges); ranges != test.ranges {
					t.Errorf("ranges: %q, want %q", ranges, test.ranges)
				}
				if took < test.least || took > test.most {
					t.Errorf("it took %v, want %v to %v", took, test.least, test.most)
				}
				if n := strings.Count(log.String(), "; trying again in "); n != len(server.ranges)-1 {
					t.Errorf("log:\n%s", log.String())
				}
			})
		})
	}
}

// What would be the same again is not asked for again.
func TestFinalAnswers(t *testing.T) {
	for status := 300; status < 600; status++ {
		again := status == 408 || status == 429 || status < 400 || status >= 500 && status != 501 && status != 505 && status != 511
		if isFinal(fmt.Errorf("x: %w", &statusError{code: status})) == again {
			t.Errorf("%d is tried again: %t", status, !again)
		}
	}
}

// What stands still is silent.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		p := &progress{log: &log, what: "URL", last: time.Now()}
		for i := range int64(25) {
			time.Sleep(time.Second)
			p.come(i<<20, 100<<20)
		}
		time.Sleep(time.Minute)
		p.come(25<<20, -1)
		if want := "'URL': 9 of 100 MiB\n'URL': 19 of 100 MiB\n'URL': 25 MiB\n"; log.String() != want {
			t.Errorf("log:\n%swant:\n%s", log.String(), want)
		}
	})
}

func TestProxies(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"[]":                                 {"HTTP_PROXY": "h"},
		"[HTTP_PROXY=a HTTPS_PROXY=a]":       {"all_proxy": "a", "ALL_PROXY": "A"},
		"[HTTP_PROXY=h HTTPS_PROXY=s]":       {"all_proxy": "a", "http_proxy": "h", "https_proxy": "s", "HTTPS_PROXY": "S"},
		"[HTTP_PROXY=A HTTPS_PROXY=S]":       {"ALL_PROXY": "A", "HTTPS_PROXY": "S"},
		"[HTTPS_PROXY=s NO_PROXY=localhost]": {"https_proxy": "s", "NO_PROXY": "localhost"},
	} {
		if got := fmt.Sprint(proxies(func(name string) string { return env[name] })); got != want {
			t.Errorf("%v: %s, want %s", env, got, want)
		}
	}
}

// Whom nobody has vouched for is not asked, whatever is known of the content.
func TestUntrusted(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	r, err := newClient().Get(s.URL)
	if err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("%v, %v", r, err)
	}
}

// A server cannot fill the memory by what comes before the content.
func TestHeaderIsBounded(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X", strings.Repeat("x", maxHeader))
	}))
	defer s.Close()
	r, err := newClient().Get(s.URL)
	if err == nil {
		t.Errorf("a header of %d bytes", len(r.Header.Get("X")))
	}
}

func TestEncoded(t *testing.T) {
	var b strings.Builder
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, "text")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	zipped := b.String()
	head := http.Header{"Content-Encoding": {"gzip"}}
	body := zipped
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "" {
			t.Errorf("encodings are asked for: %s", got)
		}
		for name, values := range head {
			w.Header()[name] = values
		}
		io.WriteString(w, body)
	}))
	defer s.Close()
	fetch := func() (string, error) {
		from, err := open(t.Context(), s.URL, io.Discard)
		if err != nil {
			return "", err
		}
		defer from.close()
		text, err := io.ReadAll(from)
		if _, again := from.Read(make([]byte, 1)); err != nil && again != err {
			t.Errorf("after %v comes %v", err, again)
		}
		return string(text), err
	}
	if got, err := fetch(); got != "text" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"text", zipped[:20], zipped[:len(zipped)-5] + "xxxxx"} {
		body = bad
		if got, err := fetch(); err == nil || !strings.HasPrefix(err.Error(), "unable to download '"+s.URL+"': ") {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// The password of a URL is for the server alone.
func TestPassword(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := open(ctx, "http://user:secret@127.0.0.1:1/file", io.Discard)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "//user:xxxxx@127.0.0.1:1/file") {
		t.Error(err)
	}
}

func TestMakesNothingTwice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	r := Request{URL: "file:///proc/self/cmdline", Output: file}
	if err := r.make(t.Context(), io.Discard); err != nil {
		t.Error(err)
	}
	if err := r.make(t.Context(), io.Discard); err == nil {
		t.Error("it overwrites")
	}
}
