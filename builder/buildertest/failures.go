package buildertest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"storefs/builder"
	"storefs/store"
)

// expect checks what kind of failure it is, and that its message contains part.
func (w *World) expect(f *store.Failure, cause store.Cause, part string) {
	w.T.Helper()
	if f.Cause != cause || !strings.Contains(f.Message, part) {
		w.T.Errorf("failure %s: %q\nwant %s: …%s…", f.Cause, f.Message, cause, part)
	}
	if strings.Contains(f.Message, "\n") {
		w.T.Errorf("the message has more than one line: %q", f.Message)
	}
}

func always() bool { return true }

// failureTests are about builders that fail.
func failureTests() tests {
	return tests{
		"exit status": func(w *World) {
			f := w.Failed(w.Job("status", `i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; echo > $out; exit 7`, nil))
			w.expect(f, store.CauseBuilder, "builder sh failed with exit status 7")
			if f.Status != 7 || f.Signal != "" || f.Builder != string(w.Shell.Path)+"/bin/sh" || f.Kept != "" {
				w.T.Errorf("failure: %+v", f)
			}
			if len(f.Log) != 20 || f.Log[0] != "line 10" || f.Log[19] != "line 29" {
				w.T.Errorf("log: %q", f.Log)
			}
			log, err := os.ReadFile(f.LogFile)
			if err != nil || !strings.HasPrefix(string(log), "line 0\nline 1\n") {
				w.T.Errorf("log file: %q %v", log, err)
			}
		},
		"signal": func(w *World) {
			f := w.Failed(w.Job("signal", `exec $probe fault`, nil))
			w.expect(f, store.CauseBuilder, "killed by SIGSEGV")
			if f.Signal != "SIGSEGV" || f.Status != 0 {
				w.T.Errorf("failure: %+v", f)
			}
		},
		"signal of a descendant": func(w *World) {
			f := w.Failed(w.Job("descendant", `sh -c 'kill -9 $$'; exit $?`, nil))
			w.expect(f, store.CauseBuilder, "exit status 137")
		},
		"kill -9 of itself": func(w *World) {
			// It is the first process of its namespace: the kernel ignores it.
			w.Built(w.Job("itself", `kill -9 $$; kill -9 -1; kill -TERM $$; echo > $out`, nil))
		},
		"missing output": func(w *World) {
			f := w.Failed(w.Job("missing", `echo > $NIX_STORE/other`, nil))
			w.expect(f, store.CauseRefused, "did not make its output "+string(w.Path("missing")))
		},
		"missing builder": func(w *World) {
			job := w.Job("no-builder", ``, func(j *builder.Job) { j.Derivation.Builder = "/bin/sh" })
			w.expect(w.Failed(job), store.CauseBuilder, "cannot execute the builder /bin/sh: no such file or directory (a sandbox has nothing of the host but what --sandbox-path names")
		},
		"missing interpreter": func(w *World) {
			script := w.Add("script", func(p string) { w.must(os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755)) })
			job := w.Job("no-interpreter", ``, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, script)
				j.Derivation.Builder = string(script.Path)
			})
			w.expect(w.Failed(job), store.CauseBuilder, "interpreter")
		},
		"a builder that is no program": func(w *World) {
			text := w.AddText("no-program", "text")
			job := w.Job("text-builder", ``, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, text)
				j.Derivation.Builder = string(text.Path)
			})
			w.expect(w.Failed(job), store.CauseBuilder, "permission denied")
		},
		"environment too long": func(w *World) {
			job := w.Job("too-long", `true`, func(j *builder.Job) { Setenv(j.Derivation, "long", strings.Repeat("x", 200<<10)) })
			w.expect(w.Failed(job), store.CauseBuilder, "argument list too long")
		},
		"NUL": func(w *World) {
			job := w.Job("nul", `true`, func(j *builder.Job) { Setenv(j.Derivation, "nul", "a\x00b") })
			w.expect(w.Failed(job), store.CauseExpr, "NUL")
		},
		"log that is not text": func(w *World) {
			f := w.Failed(w.Job("binary", `printf 'a\377\001b\n'; exit 1`, nil))
			if !slices.Equal(f.Log, []string{"a�\x01b"}) {
				w.T.Errorf("log: %q", f.Log)
			}
		},
		"keep": func(w *World) {
			job := w.Job("keep", `echo > $out; echo kept > file; mkdir -p d; echo > d/f; chmod 0 d; ln -s /etc/passwd link; exit 1`, func(j *builder.Job) { j.KeepFailed = always })
			f := w.Failed(job)
			w.expect(f, store.CauseBuilder, "exit status 1")
			if strings.Contains(f.Message, "cannot") {
				w.T.Errorf("message: %s", f.Message)
			}
			defer os.RemoveAll(f.Kept)
			defer Writable(f.Kept)
			if filepath.Dir(f.Kept) != w.Options.Builds || !strings.HasPrefix(filepath.Base(f.Kept), "kept-") {
				w.T.Fatalf("kept in %q", f.Kept)
			}
			text, err := os.ReadFile(filepath.Join(f.Kept, "build", "file"))
			w.must(err)
			w.same("file", string(text), "kept\n")
			for _, name := range []string{"build", "build/file", "build/d", "build/link", "store"} {
				info, err := os.Lstat(filepath.Join(f.Kept, name))
				w.must(err)
				if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != os.Geteuid() {
					w.T.Errorf("%s belongs to %d", name, uid)
				}
			}
		},
		"keep what did not fail": func(w *World) {
			r, err := w.build(w.Job("kept", `echo text > $out; echo kept > file`, nil))
			w.must(err)
			name := filepath.Base(r.Outputs[0].Scratch)
			kept, err := r.Keep()
			w.must(err)
			defer os.RemoveAll(kept)
			if filepath.Dir(kept) != w.Options.Builds || !strings.HasPrefix(filepath.Base(kept), "kept-") {
				w.T.Fatalf("kept in %q", kept)
			}
			for file, want := range map[string]string{"build/file": "kept\n", "store/" + name: "text\n"} {
				text, err := os.ReadFile(filepath.Join(kept, file))
				w.must(err)
				w.same(file, string(text), want)
			}
			if _, err := os.Lstat(r.Outputs[0].Scratch); !errors.Is(err, os.ErrNotExist) {
				w.T.Errorf("it is in its old place: %v", err)
			}
			files, err := filepath.Glob("/proc/self/fd/*")
			w.must(err)
			for _, f := range files {
				if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, kept+"/") {
					w.T.Errorf("%s is still open", to)
				}
			}
		},
	}
}

// limitTests are about builds that are ended from outside.
func limitTests() tests {
	const forever = `trap '' TERM INT HUP; sleep 1000 & (setsid sleep 1000 &); echo started; sleep 1000; sleep 1000`
	return tests{
		"timeout": func(w *World) {
			f := w.Failed(w.Job("timeout", forever, func(j *builder.Job) { j.Limits.Timeout = time.Second }))
			w.expect(f, store.CauseTimeout, "timed out after 1s")
			if !slices.Equal(f.Log, []string{"started"}) {
				w.T.Errorf("log: %q", f.Log)
			}
		},
		// Made at once, and read for hours.
		"timeout of outputs": func(w *World) {
			f := w.Failed(w.Job("hole", `dd if=/dev/null of=$out bs=1M seek=8M`, func(j *builder.Job) { j.Limits.Timeout = 3 * time.Second }))
			w.expect(f, store.CauseTimeout, w.Path("hole").Base()+": timed out: it takes longer than 3s to read")
		},
		"silence": func(w *World) {
			f := w.Failed(w.Job("silence", `for i in 1 2 3 4 5; do echo $i; sleep 0.3; done; sleep 1000`, func(j *builder.Job) {
				j.Limits.MaxSilent = time.Second
				j.Limits.Timeout = time.Minute
			}))
			w.expect(f, store.CauseTimeout, "timed out after 1s without output")
			if len(f.Log) != 5 {
				w.T.Errorf("log: %q", f.Log)
			}
		},
		"log limit": func(w *World) {
			f := w.Failed(w.Job("log-limit", `yes`, func(j *builder.Job) { j.Limits.MaxLog = 100_000 }))
			w.expect(f, store.CauseLog, "the log is longer than 100000 bytes")
			if info, err := os.Stat(f.LogFile); err != nil || info.Size() != 100_000 {
				w.T.Errorf("log file: %v %v", info, err)
			}
		},
		"log limit just kept": func(w *World) {
			w.Built(w.Job("log-kept", `echo 1234567; echo > $out`, func(j *builder.Job) { j.Limits.MaxLog = 8 }))
		},
		"huge log": func(w *World) {
			n := 0
			w.Built(w.Job("huge-log", `yes 0123456789 | head -n 1000000; echo > $out`, func(j *builder.Job) {
				j.Log = func([]byte) { n++ }
			}))
			if n != 1_000_000 {
				w.T.Errorf("%d lines", n)
			}
		},
		"cancel": func(w *World) {
			ctx, cancel := context.WithCancelCause(w.T.Context())
			gone := errors.New("nobody wants it")
			job := w.Job("cancel", forever, func(j *builder.Job) {
				j.KeepFailed = always
				j.Log = func([]byte) { cancel(gone) }
			})
			_, err := w.Builder.Build(ctx, job)
			if !errors.Is(err, store.ErrCancelled) || !errors.Is(err, gone) {
				w.T.Errorf("error %v", err)
			}
			if _, err := w.Builder.Build(ctx, job); !errors.Is(err, store.ErrCancelled) {
				w.T.Errorf("already cancelled: %v", err)
			}
		},
	}
}
