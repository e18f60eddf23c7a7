package buildertest

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

// fixedTests are about outputs whose content is known beforehand.
func fixedTests() tests {
	const text = "fixed\n"
	flat := store.HashOf(store.SHA256, []byte(text))
	// fixed makes a job whose only output is fixed.
	fixed := func(w *World, name, algo string, h store.Hash, script string) builder.Job {
		return w.Job(name, script, func(j *builder.Job) {
			j.Derivation.Outputs[0] = storeexpr.Output{Name: "out", Path: w.Path(name), Algo: algo, Hash: h.Base16()}
		})
	}
	// The NAR of a file with that text.
	archive := "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x00" +
		"\x07\x00\x00\x00\x00\x00\x00\x00regular\x00" +
		"\x08\x00\x00\x00\x00\x00\x00\x00contents" +
		"\x06\x00\x00\x00\x00\x00\x00\x00fixed\n\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00"
	return tests{
		"fixed flat": func(w *World) {
			for _, algo := range []store.Algo{store.MD5, store.SHA1, store.SHA256, store.SHA512} {
				h := store.HashOf(algo, []byte(text))
				r := w.Built(fixed(w, "flat-"+string(algo), string(algo), h, `echo fixed > $out`))
				w.same("content address", r.Outputs[0].Info.CA, "fixed:"+h.String())
			}
		},
		"fixed recursive": func(w *World) {
			for _, algo := range []store.Algo{store.SHA256, store.SHA512} {
				h := store.HashOf(algo, []byte(archive))
				r := w.Built(fixed(w, "recursive-"+string(algo), "r:"+string(algo), h, `echo fixed > $out`))
				w.same("content address", r.Outputs[0].Info.CA, "fixed:r:"+h.String())
			}
		},
		"fixed and other": func(w *World) {
			f := w.Failed(fixed(w, "other", "sha256", flat, `echo other > $out`))
			got := store.HashOf(store.SHA256, []byte("other\n"))
			w.expect(f, store.CauseHash, "hash mismatch in fixed output: want "+flat.SRI()+" got "+got.SRI())
			f = w.Failed(fixed(w, "other-recursive", "r:sha256", flat, `echo fixed > $out`))
			w.expect(f, store.CauseHash, "want "+flat.SRI()+" got "+store.HashOf(store.SHA256, []byte(archive)).SRI())
		},
		"fixed and other, kept": func(w *World) {
			job := fixed(w, "other", "sha256", flat, `echo other > $out`)
			job.KeepFailed = always
			f := w.Failed(job)
			defer os.RemoveAll(f.Kept)
			var there []string
			w.must(filepath.WalkDir(f.Kept, func(p string, d fs.DirEntry, err error) error {
				if d.Name() == w.Path("other").Base() {
					there = append(there, filepath.Base(filepath.Dir(p)))
				}
				return err
			}))
			w.same("where the output is", fmt.Sprint(there), "[store]")
		},
		// What came in the place of what was promised is offered under the name that it has.
		"fixed and other, offered": func(w *World) {
			zero := func(a store.Algo) store.Hash { return store.Hash{Algo: a, Sum: strings.Repeat("\x00", a.Size())} }
			for _, algo := range []store.Algo{store.MD5, store.SHA1, store.SHA256, store.SHA512} {
				for _, recursive := range []bool{false, true} {
					promise, content, ca := string(algo), text, "fixed:"
					if recursive {
						promise, content, ca = "r:"+promise, archive, "fixed:r:"
					}
					have := store.HashOf(algo, []byte(content))
					want, err := store.FixedPath(w.Options.Store, recursive, have, "offered", nil, false)
					w.must(err)
					job := fixed(w, "offered", promise, zero(algo), `echo fixed > $out`)
					offers := 0
					job.Mismatch = func(made builder.Output) error {
						offers++
						w.same("path", string(made.Info.Path), string(want))
						w.same("content address", made.Info.CA, ca+have.String())
						w.same("NAR hash", made.Info.NarHash.String(), store.HashOf(store.SHA256, []byte(archive)).String())
						w.same("deriver", string(made.Info.Deriver), "")
						w.same("content", w.Text(&builder.Result{Outputs: []builder.Output{made}}), text)
						if len(made.Info.References) > 0 || made.Info.Kind != store.KindRegular || made.Info.NarSize != int64(len(archive)) {
							w.T.Errorf("%+v", made.Info)
						}
						if offers == 1 {
							return nil // what it leaves is removed
						}
						taken := filepath.Join(w.Options.Real, made.Info.Path.Base())
						if err := os.Rename(made.Scratch, taken); err != nil {
							return err
						}
						return os.Remove(taken)
					}
					for i := range 2 {
						f := w.Failed(job)
						w.expect(f, store.CauseHash, "got "+have.SRI()+"; what came is kept at "+string(want))
						w.same("offers", fmt.Sprint(offers), fmt.Sprint(i+1))
					}
					job.Mismatch = func(builder.Output) error { return fmt.Errorf("no: %w", store.ErrNoSpace) }
					w.expect(w.Failed(job), store.CauseHash, "got "+have.SRI()+"; what came cannot be kept: no: no space left")
				}
			}
		},
		"fixed and other, kept with the scratch directory": func(w *World) {
			job := fixed(w, "kept", "sha256", flat, `echo other > $out`)
			job.KeepFailed = always
			taken := filepath.Join(w.Options.Real, "taken")
			defer os.Remove(taken)
			job.Mismatch = func(made builder.Output) error { return os.Rename(made.Scratch, taken) }
			f := w.Failed(job)
			defer os.RemoveAll(f.Kept)
			defer Writable(f.Kept)
			for _, file := range []string{taken, filepath.Join(f.Kept, "store", w.Path("kept").Base())} {
				b, err := os.ReadFile(file)
				w.must(err)
				w.same(file, string(b), "other\n")
			}
		},
		// Under no promise would these be taken.
		"fixed and other, not offered": func(w *World) {
			for script, cause := range map[string]store.Cause{
				`echo ${PATH%/bin} > $out`:           store.CauseHash,
				`echo $out > $out`:                   store.CauseHash,
				`echo other > $out; chmod +x $out`:   store.CauseRefused,
				`echo other > $out; chmod 666 $out`:  store.CauseRefused,
				`echo other > $out; exit 1`:          store.CauseBuilder,
				`mkdir $out; echo other > $out/file`: store.CauseRefused,
			} {
				job := fixed(w, "unfit", "sha256", flat, script)
				job.Mismatch = func(builder.Output) error {
					w.T.Errorf("%s: it is offered", script)
					return nil
				}
				f := w.Failed(job)
				if f.Cause != cause || strings.Contains(f.Message, "what came") {
					w.T.Errorf("%s: %s", script, f.Message)
				}
			}
			job := fixed(w, "right", "sha256", flat, `echo fixed > $out`)
			job.Mismatch = func(builder.Output) error {
				w.T.Error("what was promised is offered")
				return nil
			}
			w.Built(job)
		},
		// Who has the network can give its files to others, who outlive it.
		"fixed and open elsewhere": func(w *World) {
			name := abstractName()
			for _, c := range []struct {
				algo string
				hash store.Hash
			}{{"sha256", flat}, {"r:sha256", store.HashOf(store.SHA256, []byte(archive))}} {
				received := receive(w, name)
				r := w.Built(fixed(w, "open-"+c.algo[:1], c.algo, c.hash, `echo fixed > $out; $probe give $out `+name))
				f := received()
				_, err := f.WriteAt([]byte("other"), 0)
				w.must(err)
				w.must(f.Close())
				w.same("output after somebody wrote into what was its file", w.Text(r), text)
				r.Release()
			}
		},
		"fixed, failed, and open elsewhere": func(w *World) {
			name := abstractName()
			for _, dir := range []string{"/build", "/tmp", "$NIX_STORE"} {
				received := receive(w, name)
				w.Failed(fixed(w, "dir", "sha256", flat, `$probe give `+dir+` `+name+`; exit 1`))
				f := received()
				// As many as may have waited for others.
				for range 3 {
					w.Built(w.Job("next", `echo > `+dir+`/secret; echo > $out`, func(j *builder.Job) {
						j.Phase = func(phase string) {
							if _, err := f.Stat(); phase == event.PhaseScan && err == nil {
								names, _ := f.Readdirnames(0)
								_, err := f.Seek(0, 0)
								w.must(err)
								w.same("files of another build in "+dir, strings.Join(names, " "), "")
							}
						}
					})).Release()
				}
				w.must(f.Close())
			}
		},
		// Abstract sockets belong to networks. Whatever else a builder does in the host's, it
		// does as in its own.
		"fixed and sockets of the host": func(w *World) {
			version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
			if errno != 0 || version < 6 {
				w.T.Skipf("this kernel's Landlock has no scopes: version %d, %v", version, errno)
			}
			name := abstractName()
			l, err := net.Listen("unix", name+"unix")
			w.must(err)
			defer l.Close()
			p, err := net.ListenPacket("unixgram", name+"unixgram")
			w.must(err)
			defer p.Close()
			var lines []string
			job := fixed(w, "sockets", "sha256", flat, `$probe reach `+name+`
				busybox unshare -r -m mount -t tmpfs tmpfs /tmp && echo mounted
				mkdir a b; : > a/file; mv a/file b/file && echo moved; echo fixed > $out`)
			job.Log = func(line []byte) { lines = append(lines, string(line)) }
			w.Built(job)
			w.same("log", strings.Join(lines, "\n"), "dial unix "+name+"unix: connect: operation not permitted\n"+
				"dial unixgram "+name+"unixgram: connect: operation not permitted\n<nil>\nmounted\nmoved")
		},
		"fixed flat but no plain file": func(w *World) {
			for _, script := range []string{`echo fixed > $out; chmod +x $out`, `mkdir $out`, `echo fixed > x; ln -s x $out`, `ln -s /etc/passwd $out`} {
				w.expect(w.Failed(fixed(w, "no-file", "sha256", flat, script)), store.CauseRefused, "one file")
			}
		},
		"fixed with references": func(w *World) {
			h := store.HashOf(store.SHA256, []byte(string(w.Shell.Path)+"\n"))
			f := w.Failed(fixed(w, "refers", "sha256", h, `echo ${PATH%/bin} > $out`))
			w.expect(f, store.CauseRefused, string(w.Shell.Path))
		},
		"fixed has the network": func(w *World) {
			w.T.Setenv("STOREFS_TEST_IMPURE", "from outside")
			w.T.Setenv("STOREFS_TEST_OTHER", "from outside")
			host, err := os.Readlink("/proc/self/ns/net")
			w.must(err)
			var lines []string
			job := fixed(w, "network", "sha256", flat, `readlink /proc/self/ns/net; env | grep -E '^(STOREFS|NIX_OUTPUT|ABSENT)'; cat /etc/nsswitch.conf; ls /etc; echo fixed > $out`)
			Setenv(job.Derivation, "impureEnvVars", "STOREFS_TEST_IMPURE ABSENT")
			Setenv(job.Derivation, "STOREFS_TEST_IMPURE", "from inside")
			job.Log = func(line []byte) { lines = append(lines, string(line)) }
			w.Built(job)
			w.same("network", lines[0], host)
			rest := strings.Join(lines, "\n")
			for _, want := range []string{"STOREFS_TEST_IMPURE=from outside", "NIX_OUTPUT_CHECKED=1", "ABSENT=", "hosts: files dns\nservices: files"} {
				if !strings.Contains(rest, want) {
					w.T.Errorf("%q is not in\n%s", want, rest)
				}
			}
			if strings.Contains(rest, "STOREFS_TEST_OTHER") {
				w.T.Errorf("a variable that was not asked for:\n%s", rest)
			}
			if _, err := os.Stat("/etc/resolv.conf"); err == nil && !strings.Contains(rest, "resolv.conf") {
				w.T.Errorf("no resolv.conf:\n%s", rest)
			}
		},
		"impure variables are for fixed outputs": func(w *World) {
			w.T.Setenv("STOREFS_TEST_IMPURE", "from outside")
			job := w.Job("pure", `env > $out`, nil)
			Setenv(job.Derivation, "impureEnvVars", "STOREFS_TEST_IMPURE")
			if text := w.Text(w.Built(job)); strings.Contains(text, "from outside") || strings.Contains(text, "NIX_OUTPUT_CHECKED") {
				w.T.Errorf("environment:\n%s", text)
			}
		},
	}
}

// abstractName is that of a socket which has no file, and which nobody else has.
func abstractName() string {
	return fmt.Sprintf("@storefs-test-%d-%d", os.Getpid(), time.Now().UnixNano())
}

// receive waits at the socket of a builder for the file that it gives away. received is to
// be called when the build is over.
func receive(w *World, name string) (received func() *os.File) {
	got := make(chan *os.File, 1)
	over := make(chan struct{})
	go func() {
		defer close(got)
		for {
			if c, err := net.Dial("unix", name); err == nil {
				got <- receiveFile(c.(*net.UnixConn))
				return
			}
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() *os.File {
		w.T.Helper()
		close(over)
		f := <-got
		if f == nil {
			w.T.Fatal("no file came")
		}
		return f
	}
}

func receiveFile(c *net.UnixConn) *os.File {
	defer c.Close()
	var b [1]byte
	oob := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(b[:], oob)
	if err != nil {
		return nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "received")
}
