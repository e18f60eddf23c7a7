package buildertest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"storefs/builder"
	"storefs/event"
	"storefs/store"
	"storefs/storeexpr"
)

// sandboxTests are about what a builder finds itself in.
func sandboxTests() tests {
	return tests{
		"environment": func(w *World) {
			job := w.Job("environment", `env > $out`, func(j *builder.Job) {
				Setenv(j.Derivation, "HOME", "/its/own")
				Setenv(j.Derivation, "TMPDIR", "/not/its/own")
				Setenv(j.Derivation, "TERM", "dumb")
				Setenv(j.Derivation, "placeholder", "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9/bin")
			})
			out := string(job.Derivation.Outputs[0].Path)
			want := []string{
				"HOME=/its/own", "NIX_BUILD_CORES=3", "NIX_BUILD_TOP=/build", "NIX_LOG_FD=2",
				"NIX_STORE=" + string(w.Options.Store), "PATH=" + string(w.Shell.Path) + "/bin", "PWD=/build",
				"SHLVL=1", "TEMP=/build", "TEMPDIR=/build", "TERM=xterm-256color", "TMP=/build", "TMPDIR=/build",
				"out=" + out, "placeholder=" + out + "/bin", "probe=" + string(w.Probe.Path),
			}
			got := strings.Split(strings.TrimSpace(w.Text(w.Built(job))), "\n")
			slices.Sort(got)
			w.same("environment", strings.Join(got, "\n"), strings.Join(want, "\n"))
		},
		"default environment": func(w *World) {
			job := w.Job("default", "", func(j *builder.Job) {
				j.Derivation.Env = nil
				j.Derivation.Args[1] = "echo $PATH $HOME > " + string(j.Derivation.Outputs[0].Path)
			})
			w.same("PATH and HOME", w.Text(w.Built(job)), "/path-not-set /homeless-shelter\n")
		},
		"arguments": func(w *World) {
			job := w.Job("arguments", "", func(j *builder.Job) {
				j.Derivation.Args = []string{"-c", `printf '%s|' "$0" "$@" > $out`, "zero", "", "two words", "\xff\xfe", "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"}
			})
			w.same("arguments", w.Text(w.Built(job)), "zero||two words|\xff\xfe|"+string(job.Derivation.Outputs[0].Path)+"|")
		},
		"argv0": func(w *World) {
			r := w.Built(w.Job("argv0", `head -c 2 /proc/1/cmdline > $out`, nil))
			w.same("argv[0]", w.Text(r), "sh")
		},
		"identity": func(w *World) {
			r := w.Built(w.Job("identity", `exec > $out; id; umask; hostname; cat /proc/sys/kernel/domainname; pwd; echo $$
				cat /proc/self/personality; ulimit -c; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0`, nil))
			w.same("identity", w.Text(r), "uid=1000(nixbld) gid=100(nixbld)"+w.otherGroups()+`
0022
localhost
(none)
/build
1
00040000
0
4
/dev/null
`)
		},
		"no rights": func(w *World) {
			r := w.Built(w.Job("rights", `grep -E '^(Cap|NoNewPrivs|Seccomp:|NSsid)' /proc/1/status > $out`, nil))
			none := "\t0000000000000000\n"
			w.same("status", w.Text(r), "NSsid:\t1\nCapInh:"+none+"CapPrm:"+none+"CapEff:"+none+"CapBnd:"+none+"CapAmb:"+none+"NoNewPrivs:\t1\nSeccomp:\t2\n")
		},
		"no rights by a program that has some": func(w *World) {
			busybox := filepath.Join(w.Options.Real, w.Shell.Path.Base(), "bin", "busybox")
			privileged := w.Add("privileged", func(p string) {
				w.must(os.Mkdir(p, 0o755))
				CopyFile(w.T, busybox, filepath.Join(p, "busybox"))
			})
			program := filepath.Join(w.Options.Real, privileged.Path.Base(), "busybox")
			w.must(os.Chmod(program, os.ModeSetuid|os.ModeSetgid|0o555))
			if os.Geteuid() == 0 {
				w.must(unix.Setxattr(program, "security.capability", fileCapabilities(w.allCapabilities()), 0))
			}
			r := w.Built(w.Job("no-rights", string(privileged.Path)+`/busybox grep -E '^(Uid|Gid|CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status > $out`, func(j *builder.Job) {
				j.Inputs = append(j.Inputs, privileged)
			}))
			none := "\t0000000000000000\n"
			w.same("status", w.Text(r), "Uid:"+strings.Repeat("\t1000", 4)+"\nGid:"+strings.Repeat("\t100", 4)+"\nCapInh:"+none+"CapPrm:"+none+"CapEff:"+none+"CapAmb:"+none+"NoNewPrivs:\t1\n")
		},
		"files": func(w *World) {
			r := w.Built(w.Job("files", `exec > $out; ls -A / /dev /etc /tmp /build /dev/shm /dev/pts; cat /etc/*
				echo x > /dev/null && head -c 3 /dev/zero | wc -c && echo x > /dev/shm/x && echo x > /tmp/x && echo x > /build/x && echo writable
				(echo x > /x; echo x > /etc/x; echo x > /dev/x; echo x > /proc/x; echo x >> /etc/passwd) 2>&1 | wc -l
				stat -c %a /build /tmp / /dev/shm`, nil))
			w.same("files", w.Text(r), `/:
build
dev
etc
gnu
proc
tmp

/build:

/dev:
fd
full
null
ptmx
pts
random
shm
stderr
stdin
stdout
tty
urandom
zero

/dev/pts:
ptmx

/dev/shm:

/etc:
group
hosts
passwd

/tmp:
root:x:0:
nixbld:!:100:
nogroup:x:65534:
127.0.0.1 localhost
::1 localhost
root:x:0:0:Nix build user:/build:/noshell
nixbld:x:1000:100:Nix build user:/build:/noshell
nobody:x:65534:65534:Nobody:/:/noshell
3
writable
5
700
1777
755
1777
`)
		},
		"flags of mounts": func(w *World) {
			r := w.Built(w.Job("mounts", `cut -d ' ' -f 5,6 /proc/self/mountinfo > $out`, nil))
			dir := string(w.Options.Store)
			least := map[string]string{
				"/": "ro,nosuid,nodev", "/build": "nosuid,nodev", "/tmp": "nosuid,nodev", dir: "nosuid,nodev",
				"/dev/pts": "nosuid,noexec", "/dev/shm": "nosuid,nodev", "/proc": "nosuid,nodev,noexec",
				"/dev/null": "ro,nosuid", string(w.Shell.Path): "ro,nosuid,nodev",
			}
			seen := make(map[string]bool)
			for line := range strings.Lines(w.Text(r)) {
				place, options, _ := strings.Cut(strings.TrimSpace(line), " ")
				seen[place] = true
				flags, ok := least[place]
				switch {
				case ok:
				case strings.HasPrefix(place, dir+"/"): // inputs
					flags = "ro,nosuid,nodev"
				case strings.HasPrefix(place, "/dev/"):
					flags = "ro,nosuid"
				case strings.HasPrefix(place, "/proc/"): // settings of the machine
					flags = "ro,nosuid,nodev,noexec"
				default:
					w.T.Errorf("%s is mounted", place)
				}
				for flag := range strings.SplitSeq(flags, ",") {
					if !slices.Contains(strings.Split(options, ","), flag) {
						w.T.Errorf("%s is mounted without %s: %s", place, flag, options)
					}
				}
			}
			for place := range least {
				if !seen[place] {
					w.T.Errorf("%s is not mounted", place)
				}
			}
		},
		"what storefs was started with": func(w *World) {
			var core unix.Rlimit
			w.must(unix.Getrlimit(unix.RLIMIT_CORE, &core))
			some := unix.Rlimit{Cur: min(4096, core.Max), Max: core.Max}
			w.must(unix.Setrlimit(unix.RLIMIT_CORE, &some))
			defer func() { w.must(unix.Setrlimit(unix.RLIMIT_CORE, &core)) }()
			defer w.ignore(unix.SIGHUP)()
			defer w.ignore(unix.SIGINT)()
			// The two are the lowest bits. Some shells ignore others themselves.
			script, want := `ulimit -c; grep -c '^SigIgn:.*[048c]$' /proc/1/status`, "0\n1\n"
			if had, err := unix.Getgroups(); err == nil && syscall.Setgroups([]int{4}) == nil { // who may
				defer func() { w.must(syscall.Setgroups(had)) }()
				script += `; grep -c '^Groups:[^0-9]*$' /proc/1/status`
				want += "1\n"
			}
			in := NewWorld(w.T, w.open)
			w.same("what is left of that", in.Text(in.Built(in.Job("inherits", `(`+script+`) > $out`, nil))), want)
		},
		"terminals": func(w *World) {
			w.Built(w.Job("terminals", `exec 3<>/dev/ptmx && ls /dev/pts | grep -q 0 && ! (: < /dev/tty) 2>/dev/null && echo > $out`, nil))
		},
		"memory for code": func(w *World) {
			probe := filepath.Join(w.Options.Real, w.Probe.Path.Base())
			if out, err := exec.Command(probe, "code", "/dev/zero").CombinedOutput(); err != nil {
				w.T.Skipf("not from /dev/zero on this host: %v: %s", err, out)
			}
			w.Built(w.Job("code", `$probe code /dev/zero && echo > $out`, nil))
		},
		"network is absent": func(w *World) {
			r := w.Built(w.Job("network", `exec > $out; readlink /proc/self/ns/net; grep -c : /proc/net/dev; nc -w 1 -l -p 1234 127.0.0.1 </dev/null & sleep 0.2; nc -w 1 127.0.0.1 1234 </dev/null && echo loopback`, nil))
			lines := strings.Split(w.Text(r), "\n")
			if host, _ := os.Readlink("/proc/self/ns/net"); lines[0] == host {
				w.T.Error("the builder is in the network of the host")
			}
			w.same("interfaces", strings.Join(lines[1:], "\n"), "1\nloopback\n")
		},
		"multicast is reported at once": func(w *World) {
			versions := []string{"/proc/sys/net/ipv4/conf/lo/force_igmp_version", "/proc/sys/net/ipv6/conf/lo/force_mld_version"}
			want := "2\n1\n"
			if _, err := os.Stat(versions[1]); err != nil { // a kernel without IPv6
				versions, want = versions[:1], "2\n"
			}
			w.same("versions", w.Text(w.Built(w.Job("multicast", `cat `+strings.Join(versions, " ")+` > $out`, nil))), want)
		},
		"log": func(w *World) {
			var lines []string
			r := w.Built(w.Job("log", `echo one; echo two >&2; echo; printf 'no end'; echo > $out`, func(j *builder.Job) {
				j.Log = func(line []byte) { lines = append(lines, string(line)) }
			}))
			w.same("lines", strings.Join(lines, "|"), "one|two||no end")
			text, err := os.ReadFile(r.LogFile)
			w.must(err)
			w.same("log file", string(text), "one\ntwo\n\nno end")
			drv := w.Path("log.drv").Base()
			w.same("name of the log", r.LogFile, w.Options.Logs+"/drvs/"+drv[:2]+"/"+drv[2:])
		},
		"log by name": func(w *World) {
			r := w.Built(w.Job("log-by-name", `echo one > /dev/stdout && echo two > /dev/stderr && echo three >> /dev/fd/1 && sh -c 'echo four > /dev/stderr' && echo > $out`, nil))
			text, err := os.ReadFile(r.LogFile)
			w.must(err)
			w.same("log file", string(text), "one\ntwo\nthree\nfour\n")
		},
		"long lines": func(w *World) {
			var lengths []int
			w.Built(w.Job("long", `head -c 131072 /dev/zero; echo; head -c 65537 /dev/zero; echo; echo end; echo > $out`, func(j *builder.Job) {
				j.Log = func(line []byte) { lengths = append(lengths, len(line)) }
			}))
			if want := []int{65536, 65536, 65536, 1, 3}; !slices.Equal(lengths, want) {
				w.T.Errorf("lines have lengths %v, want %v", lengths, want)
			}
		},
		"phases": func(w *World) {
			var phases []string
			w.Built(w.Job("phases", `echo > $out`, func(j *builder.Job) {
				j.Phase = func(p string) { phases = append(phases, p) }
			}))
			w.same("phases", strings.Join(phases, " "), event.PhaseSandbox+" "+event.PhaseBuild+" "+event.PhaseScan)
		},
		"many at once": func(w *World) {
			var group sync.WaitGroup
			errs := make(chan error, 20)
			for i := range cap(errs) {
				name := string(rune('a'+i)) + "-of-many"
				job := w.Job(name, `echo $$ $NIX_STORE > $out; sleep 0.1`, nil)
				group.Go(func() {
					r, err := w.build(job)
					if err == nil {
						r.Release()
					}
					errs <- err
				})
			}
			group.Wait()
			for range cap(errs) {
				w.must(<-errs)
			}
		},
		"sandbox paths": func(w *World) {
			dir := w.T.TempDir()
			w.must(os.WriteFile(filepath.Join(dir, "file"), []byte("of the host\n"), 0o644))
			link := filepath.Join(w.T.TempDir(), "link")
			w.must(os.Symlink(filepath.Join(dir, "file"), link))
			shell := string(w.Path("busybox"))
			in := NewWorld(w.T, func(t testing.TB, o *builder.Options) Builder {
				o.SandboxPaths = []builder.SandboxPath{
					{Inside: "/bin/sh", Outside: shell + "/bin/busybox"}, // of the store, and no input
					{Inside: shell, Outside: shell},
					{Inside: "/deep/host", Outside: dir},
					{Inside: "/etc/linked", Outside: link},
					{Inside: "/dev/other-null", Outside: "/dev/null"},
				}
				return w.open(t, o)
			})
			r := in.Built(in.Job("paths", `exec > $out 2>&1; cat /deep/host/file /etc/linked; echo x > /dev/other-null && echo device
				echo x > /deep/host/new; rm -f /deep/host/file; echo x > /etc/linked; touch `+shell+`/x; ls $NIX_STORE | wc -l
				grep -cE ' /(deep/host|etc/linked) ro,nosuid,nodev' /proc/self/mountinfo; grep -c ' /dev/other-null ro,nosuid' /proc/self/mountinfo`, func(j *builder.Job) {
				j.Derivation.Builder = "/bin/sh"
				j.Derivation.Args[0] = "-c"
				j.Inputs = nil
			}))
			w.same("paths", in.Text(r), `of the host
of the host
device
sh: can't create /deep/host/new: Read-only file system
rm: can't remove '/deep/host/file': Read-only file system
sh: can't create /etc/linked: Read-only file system
touch: `+shell+`/x: Read-only file system
2
2
1
`)
			in.Built(in.Job("both", `echo > $out`, nil)) // the shell is an input too
			broken := NewWorld(w.T, func(t testing.TB, o *builder.Options) Builder {
				o.SandboxPaths = []builder.SandboxPath{{Inside: "/x", Outside: dir + "/absent"}}
				return w.open(t, o)
			})
			broken.expect(broken.Failed(broken.Job("broken", `echo > $out`, nil)), store.CauseSystem, "sandbox path /x: stat "+dir+"/absent")
		},
		"store below other directories of the sandbox": func(w *World) {
			for _, dir := range []store.Dir{"/tmp/s", "/build/a/store", "/store", "/usr/local/share/objects"} {
				in := NewWorld(w.T, func(t testing.TB, o *builder.Options) Builder {
					o.Store = dir
					return w.open(t, o)
				})
				r := in.Built(in.Job("placed", `echo $NIX_STORE > $out; : > /tmp/x; : > /build/x`, nil))
				w.same("store", in.Text(r), string(dir)+"\n")
			}
		},
		"derivation of 2004": func(w *World) {
			job := w.Job("of-2004", `echo $other > $result; mkdir $other`, func(j *builder.Job) {
				j.Derivation.Form = storeexpr.Form2004
				a, b := w.Path("a-result"), w.Path("b-result")
				j.Derivation.Outputs = []storeexpr.Output{{Path: a}, {Path: b}}
				Setenv(j.Derivation, "result", string(a))
				Setenv(j.Derivation, "other", string(b))
			})
			r := w.Built(job)
			if len(r.Outputs) != 2 || r.Outputs[0].Name != "" || r.Outputs[1].Name != "" {
				w.T.Fatalf("outputs: %+v", r.Outputs)
			}
			if refs := r.Outputs[0].Info.References; !slices.Equal(refs, []store.Path{w.Path("b-result")}) {
				w.T.Errorf("references: %v", refs)
			}
		},
	}
}

func (w *World) same(what, got, want string) {
	w.T.Helper()
	if got != want {
		w.T.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

// allCapabilities is the set of all that this kernel has.
func (w *World) allCapabilities() uint64 {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	w.must(err)
	last, err := strconv.Atoi(strings.TrimSpace(string(text)))
	w.must(err)
	return 1<<(last+1) - 1
}

// fileCapabilities is the attribute of a file whose program has the capabilities in
// set, at once: struct vfs_cap_data of linux/capability.h, revision 2.
func fileCapabilities(set uint64) []byte {
	const revision, effective = 0x02000000, 1
	b := binary.LittleEndian.AppendUint32(nil, revision|effective)
	for ; len(b) < 20; set >>= 32 {
		b = binary.LittleEndian.AppendUint32(b, uint32(set)) // permitted
		b = binary.LittleEndian.AppendUint32(b, 0)           // inheritable
	}
	return b
}

// otherGroups is what id prints of groups that an ordinary user cannot drop.
func (w *World) otherGroups() string {
	groups, err := os.Getgroups()
	w.must(err)
	if os.Geteuid() == 0 || len(groups) == 0 || len(groups) == 1 && groups[0] == os.Getegid() {
		return ""
	}
	w.T.Skip("this user has supplementary groups")
	return ""
}

// ignore ignores a signal, as what this process starts then does, until the returned
// function is called. signal.Reset would leave it ignored.
func (w *World) ignore(sig syscall.Signal) (restore func()) {
	w.T.Helper()
	action := func(to, from *[4]uintptr) { // struct sigaction of the kernel
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(from)), 8, 0, 0); errno != 0 {
			w.T.Fatal(os.NewSyscallError("sigaction", errno))
		}
	}
	var before [4]uintptr
	action(nil, &before)
	signal.Ignore(sig)
	return func() { action(&before, nil) }
}
