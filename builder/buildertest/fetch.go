package buildertest

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"storefs/builder"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// fetchTests are about builtin:fetchurl.
func fetchTests() tests {
	const text = "fetched\n"
	flat := store.HashOf(store.SHA256, []byte(text))
	serve := func(w *World, handler http.HandlerFunc) (url string) {
		s := httptest.NewServer(handler)
		w.T.Cleanup(s.Close)
		w.T.Cleanup(s.CloseClientConnections)
		return s.URL + "/file"
	}
	give := func(content string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, content) }
	}
	// got is what came of a job that promises something else.
	got := func(w *World, job builder.Job) (content string) {
		job.Mismatch = func(made builder.Output) error {
			content = w.Text(&builder.Result{Outputs: []builder.Output{made}})
			return nil
		}
		w.expect(w.Failed(job), store.CauseHash, "hash mismatch")
		return content
	}
	// tree is a directory with everything that an archive can have, and its archive.
	tree := func(w *World) (archive []byte, h store.Hash) {
		dir := filepath.Join(w.T.TempDir(), "tree")
		w.must(os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
		w.must(os.WriteFile(filepath.Join(dir, "text"), []byte(text), 0o644))
		program, err := os.Open("/proc/self/exe")
		w.must(err)
		defer program.Close()
		code := make([]byte, 100<<10)
		_, err = program.ReadAt(code, 1<<20)
		w.must(err)
		w.must(os.WriteFile(filepath.Join(dir, "bin", "program"), code, 0o755))
		w.must(os.Symlink("../text", filepath.Join(dir, "bin", "link")))
		var b bytes.Buffer
		w.must(nar.Dump(&b, dir))
		return b.Bytes(), store.HashOf(store.SHA256, b.Bytes())
	}
	return tests{
		"fetch flat": func(w *World) {
			url := serve(w, give(text))
			byName := strings.Replace(url, "127.0.0.1", "localhost", 1)
			for platform, url := range map[string]string{"builtin": url, "riscv64-linux": byName} {
				job := w.Fetch(url, "sha256", flat)
				job.Derivation.Platform = platform
				r := w.Built(job)
				w.same("content", w.Text(r), text)
				w.same("content address", r.Outputs[0].Info.CA, "fixed:"+flat.String())
			}
		},
		"fetch executable": func(w *World) {
			var archive bytes.Buffer
			file := filepath.Join(w.T.TempDir(), "file")
			w.must(os.WriteFile(file, []byte(text), 0o755))
			w.must(nar.Dump(&archive, file))
			r := w.Built(w.Fetch(serve(w, give(text)), "r:sha256", store.HashOf(store.SHA256, archive.Bytes()), "executable", "1"))
			if r.Outputs[0].Info.Kind != store.KindExecutable {
				w.T.Errorf("%+v", r.Outputs[0].Info)
			}
		},
		"fetch and unpack": func(w *World) {
			archive, h := tree(w)
			w.Built(w.Fetch(serve(w, give(string(archive))), "r:sha256", h, "unpack", "1"))
			xz := Need(w.T, "xz")
			for _, options := range []string{"-0 -C none", "-C sha256 --x86 --lzma2=preset=0"} {
				cmd := exec.Command(xz, append(strings.Fields(options), "-c")...)
				cmd.Stdin = bytes.NewReader(archive)
				packed, err := cmd.Output()
				w.must(err)
				w.Built(w.Fetch(serve(w, give(string(packed)))+".nar.xz", "r:sha256", h, "unpack", "1"))
			}
		},
		"fetch with structured attributes": func(w *World) {
			archive, h := tree(w)
			job := w.Fetch("", "r:sha256", h)
			job.Derivation.Env = nil
			Setenv(job.Derivation, "__json", `{"url":"`+serve(w, give(string(archive)))+`","unpack":true,"executable":false}`)
			w.Built(job)
		},
		"fetch what was moved": func(w *World) {
			url := serve(w, func(out http.ResponseWriter, r *http.Request) {
				var n int
				if fmt.Sscanf(r.URL.Path, "/file%d", &n); n > 0 {
					http.Redirect(out, r, fmt.Sprintf("/file%d", n-1), http.StatusFound)
				} else {
					io.WriteString(out, text)
				}
			})
			w.Built(w.Fetch(url+"10", "sha256", flat))
			w.expect(w.Failed(w.Fetch(url+"11", "sha256", flat)), store.CauseBuilder,
				"unable to download '"+url+"11': it leads on more than 10 times")
			url = serve(w, func(out http.ResponseWriter, r *http.Request) {
				http.Redirect(out, r, "file:///etc/passwd", http.StatusFound)
			})
			w.expect(w.Failed(w.Fetch(url, "sha256", flat)), store.CauseBuilder,
				"unable to download '"+url+"': it leads on to 'file:///etc/passwd': its protocol is none of")
		},
		"fetch what is not there": func(w *World) {
			requests := new(atomic.Int64)
			url := serve(w, func(out http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				http.NotFound(out, r)
			})
			f := w.Failed(w.Fetch(url, "sha256", flat))
			w.expect(f, store.CauseBuilder, "builder builtin:fetchurl failed with exit status 1: unable to download '"+url+"': HTTP error 404")
			w.same("log", strings.Join(f.Log, "\n"), "unable to download '"+url+"': HTTP error 404")
			w.same("status", fmt.Sprint(f.Status), "1")
			w.same("requests", fmt.Sprint(requests.Load()), "1")
		},
		"fetch something else": func(w *World) {
			w.same("content", got(w, w.Fetch(serve(w, give("other\n")), "sha256", flat)), "other\n")
		},
		"fetch what is no archive": func(w *World) {
			archive, h := tree(w)
			for suffix, content := range map[string]string{"": text, ".xz": text, ".nar.xz": string(archive), "?": string(archive[:len(archive)-8]), "#": string(archive) + "more"} {
				url := serve(w, give(content)) + suffix
				w.expect(w.Failed(w.Fetch(url, "r:sha256", h, "unpack", "1")), store.CauseBuilder, "unable to unpack '"+url+"': ")
			}
		},
		"fetch again": func(w *World) {
			requests := new(atomic.Int64)
			url := serve(w, func(out http.ResponseWriter, _ *http.Request) {
				if requests.Add(1) == 1 {
					out.WriteHeader(http.StatusInternalServerError)
				}
				io.WriteString(out, text)
			})
			r := w.Built(w.Fetch(url, "sha256", flat))
			log, err := os.ReadFile(r.LogFile)
			w.must(err)
			if !strings.HasPrefix(string(log), "unable to download '"+url+"': HTTP error 500; trying again in ") {
				w.T.Errorf("log: %s", log)
			}
		},
		"fetch what breaks off": func(w *World) {
			requests := new(atomic.Int64)
			broken := func(out http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				out.Header().Set("Content-Length", fmt.Sprint(len(text)))
				io.WriteString(out, text[:3])
			}
			url := serve(w, broken)
			w.expect(w.Failed(w.Fetch(url, "sha256", flat)), store.CauseBuilder,
				"unable to download '"+url+"': it broke off after 3 of 8 bytes: unexpected EOF")
			w.same("requests", fmt.Sprint(requests.Load()), "1")
			url = serve(w, func(out http.ResponseWriter, r *http.Request) {
				out.Header().Set("Accept-Ranges", "bytes")
				if r.Header.Get("Range") == "" {
					broken(out, r)
				} else {
					http.ServeContent(out, r, "", time.Time{}, strings.NewReader(text))
				}
			})
			w.Built(w.Fetch(url, "sha256", flat))
		},
		"fetch in the sandbox": func(w *World) {
			if passwd := got(w, w.Fetch("file:///etc/passwd", "sha256", flat)); !strings.Contains(passwd, "nixbld:x:1000:100:") {
				w.T.Errorf("/etc/passwd:\n%s", passwd)
			}
			status := got(w, w.Fetch("file://localhost/proc/self/status", "sha256", flat))
			for _, want := range []string{
				"Pid:\t1", "Uid:\t1000\t1000\t1000\t1000", "Gid:\t100\t100\t100\t100", "NoNewPrivs:\t1", "Seccomp:\t2",
				"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapInh:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
			} {
				if !strings.Contains(status, "\n"+want+"\n") {
					w.T.Errorf("%q is not in\n%s", want, status)
				}
			}
			// Of what it was started by, nothing is left.
			host, err := os.Executable()
			w.must(err)
			for line := range strings.Lines(got(w, w.Fetch("file:///proc/self/maps", "sha256", flat))) {
				if file := strings.Index(line, "/"); file >= 0 && !strings.HasPrefix(line[file:], "/.storefs/") {
					w.T.Errorf("it has mapped %s", line[file:])
				}
			}
			w.expect(w.Failed(w.Fetch("file://"+host, "sha256", flat)), store.CauseBuilder, "no such file or directory")
			input := w.AddText("fetched-input", text)
			job := w.Fetch("file://"+string(input.Path), "sha256", flat)
			job.Inputs = append(job.Inputs, input)
			w.Built(job)
		},
		"fetch securely": func(w *World) {
			s := httptest.NewTLSServer(give(text))
			w.T.Cleanup(s.Close)
			certificate := filepath.Join(w.T.TempDir(), "certificate")
			w.must(os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o644))
			w.T.Setenv("NIX_SSL_CERT_FILE", "")
			w.T.Setenv("SSL_CERT_FILE", certificate)
			w.Built(w.Fetch(s.URL, "sha256", flat))
			w.T.Setenv("NIX_SSL_CERT_FILE", certificate)
			w.T.Setenv("SSL_CERT_FILE", "/dev/null")
			w.Built(w.Fetch(s.URL, "sha256", flat))
		},
		"fetch by a proxy": func(w *World) {
			proxy := strings.TrimSuffix(serve(w, func(out http.ResponseWriter, r *http.Request) { fmt.Fprint(out, r.URL) }), "/file")
			const url = "http://storefs.invalid/file"
			for _, variable := range []string{"http_proxy", "all_proxy"} {
				w.T.Setenv(variable, proxy)
				job := w.Fetch(url, "sha256", flat, "http_proxy", "http://nothing.invalid")
				w.same("request", got(w, job), url)
				w.T.Setenv(variable, "")
			}
		},
		"fetch as long as somebody waits": func(w *World) {
			ctx, cancel := context.WithCancel(w.T.Context())
			gone := make(chan struct{})
			url := serve(w, func(out http.ResponseWriter, r *http.Request) {
				io.WriteString(out, text)
				out.(http.Flusher).Flush()
				cancel()
				<-r.Context().Done()
				close(gone)
			})
			if _, err := w.Builder.Build(ctx, w.Fetch(url, "sha256", flat)); !errors.Is(err, store.ErrCancelled) {
				w.T.Errorf("build: %v", err)
			}
			<-gone
		},
		"fetch within limits": func(w *World) {
			end := make(chan struct{})
			endless := func(out http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					io.WriteString(out, text)
				}
			}
			stuck := func(out http.ResponseWriter, r *http.Request) { <-end }
			job := w.Fetch(serve(w, endless), "sha256", flat)
			job.Limits.Timeout = time.Second
			w.expect(w.Failed(job), store.CauseTimeout, "timed out after 1s")
			job = w.Fetch(serve(w, stuck), "sha256", flat)
			job.Limits.MaxSilent = time.Second
			w.expect(w.Failed(job), store.CauseTimeout, "without output")
			close(end)
		},
		"fetch what cannot be": func(w *World) {
			for url, why := range map[string]string{
				"ftp://127.0.0.1/file":   "its protocol is none of http, https and file",
				"127.0.0.1/file":         "its protocol is none of http, https and file",
				"http:///file":           "it names no host",
				"http://127.0.0.1/\n":    "invalid control character in URL",
				"file:///etc":            "is a directory",
				"file://elsewhere/etc":   "it is a file of another host",
				"file:///no/such%20file": "open /no/such file: no such file or directory",
				"http://u:secret@[::1/f": "missing ']' in host",
				"http://127.0.0.1:port/": `invalid port ":port"`,
			} {
				w.expect(w.Failed(w.Fetch(url, "sha256", flat)), store.CauseBuilder, why)
			}
			job := w.Fetch("file:///etc/passwd", "", store.Hash{})
			w.expect(w.Failed(job), store.CauseRefused, "builtin:fetchurl must be a fixed-output derivation")
			job = w.Fetch("", "sha256", flat)
			job.Derivation.Env = nil
			w.expect(w.Failed(job), store.CauseExpr, "its attribute url is missing")
			Setenv(job.Derivation, "__json", `{"url":"file:///etc/passwd\u0000"}`)
			w.expect(w.Failed(job), store.CauseExpr, "its attribute url is missing, or no text")
			job = w.Fetch("", "sha256", flat)
			job.Derivation.Builder = "builtin:unknown"
			w.expect(w.Failed(job), store.CauseRefused, `it needs the builtin builder "unknown", which is not provided`)
		},
	}
}

// Fetch is a job that fetches a URL, by builtin:fetchurl, which is to have a hash by algo. Its
// attributes are pairs.
func (w *World) Fetch(url, algo string, h store.Hash, attributes ...string) builder.Job {
	w.T.Helper()
	return w.Job("fetched", "", func(j *builder.Job) {
		d := j.Derivation
		d.Builder, d.Platform, d.Args = "builtin:fetchurl", "builtin", nil
		d.Outputs[0] = storeexpr.Output{Name: "out", Path: w.Path("fetched"), Algo: algo, Hash: h.Base16()}
		Setenv(d, "url", url)
		for i := 0; i < len(attributes); i += 2 {
			Setenv(d, attributes[i], attributes[i+1])
		}
	})
}
