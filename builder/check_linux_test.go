package builder

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
	"storefs/storeexpr"
)

func TestCheck(t *testing.T) {
	if err := Check(); err != nil {
		t.Fatal(err)
	}
}

// A limit of no further namespaces, set for a namespace of our own, is what an
// administrator's switch does.
func TestCheckNamesTheSwitch(t *testing.T) {
	const variable = "STOREFS_TEST_SWITCH"
	if os.Getenv(variable) != "" {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		err := Check()
		if err == nil || !strings.Contains(err.Error(), "user.max_user_namespaces is 0") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("error %v", err)
		}
		return
	}
	self := &os.ProcAttr{
		Env:   append(os.Environ(), variable+"=1"),
		Files: []*os.File{nil, nil, os.Stderr},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		},
	}
	p, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], "-test.run=^TestCheckNamesTheSwitch$"}, self)
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil || !state.Success() {
		t.Fatalf("%v %v", state, err)
	}
}

func TestForbids(t *testing.T) {
	const (
		limit    = "/proc/sys/user/max_user_namespaces"
		clone    = "/proc/sys/kernel/unprivileged_userns_clone"
		apparmor = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
		mounts   = "/proc/self/mountinfo"
	)
	masked := "30 20 0:5 / /proc rw - proc proc rw\n31 30 0:6 /null /proc/kcore rw - tmpfs tmpfs rw\n"
	plain := "30 20 0:5 / /proc rw - proc proc rw\n31 30 0:6 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n"
	for _, c := range []struct {
		files map[string]string
		root  bool
		want  string
	}{
		{map[string]string{limit: "100", clone: "1", apparmor: "0", mounts: plain}, false, ""},
		{map[string]string{}, false, ""},
		{map[string]string{limit: "0"}, true, "max_user_namespaces"},
		{map[string]string{clone: "0"}, false, "unprivileged_userns_clone"},
		{map[string]string{clone: "0"}, true, ""},
		{map[string]string{apparmor: "1"}, false, "apparmor_restrict_unprivileged_userns"},
		{map[string]string{apparmor: "1"}, true, ""},
		{map[string]string{mounts: masked}, true, "/proc are masked"},
	} {
		got := forbids("mount proc on /proc", func(file string) string { return c.files[file] }, c.root)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v as root %t: %q, want %q", c.files, c.root, got, c.want)
		}
	}
	// What is in the way of a /proc is not what keeps a name from being set.
	if got := forbids("set host name", func(string) string { return masked }, true); got != "" {
		t.Errorf("the host name: %q", got)
	}
	if err := diagnose("start", unix.ENOSPC); strings.Contains(err.Error(), "no space") {
		t.Errorf("error %v", err)
	}
}

func TestTooOld(t *testing.T) {
	for release, want := range map[string]bool{
		"4.19.0": true, "5.10.0-46-cloud-amd64": true, "5.9-rc1": true,
		"5.12.0": false, "5.15.0-generic": false, "6.1.0-50-amd64": false, "10.0": false, "": false, "strange": false,
	} {
		if got := tooOld(release); (got != "") != want || !strings.HasSuffix(got, release) && want {
			t.Errorf("%s: %q", release, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	good := Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(o *Options){
		"no such file":   func(o *Options) { o.Real = filepath.Join(dir, "absent") },
		"not an abs":     func(o *Options) { o.Store = "nix/store" },
		"/proc":          func(o *Options) { o.Store = "/proc/store" },
		"for itself":     func(o *Options) { o.Store = buildDir },
		"not absolute":   func(o *Options) { o.SandboxPaths = []SandboxPath{{"bin/sh", "/bin/sh"}} },
		"not a clean":    func(o *Options) { o.SandboxPaths = []SandboxPath{{"/bin/../sh", "/bin/sh"}} },
		"not DIGEST-NAM": func(o *Options) { o.SandboxPaths = []SandboxPath{{"/bin/sh", "/nix/store/sh"}} },
	} {
		o := good
		edit(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want …%s…", err, want)
		}
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	l, err := New(Options{Store: "/nix/store", Real: dir, Builds: dir, Logs: dir})
	if err != nil {
		t.Fatal(err)
	}
	const base = "7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-bash"
	for p, want := range map[string]string{
		"/bin/sh":                        "/bin/sh",
		"/nix/storefront":                "/nix/storefront",
		"/nix/store/" + base + "/bin/sh": l.opts.Real + "/" + base + "/bin/sh",
		"/x/../nix/store/" + base:        l.opts.Real + "/" + base,
	} {
		if got, err := l.hostPath(p); got != want || err != nil {
			t.Errorf("%s: %q %v, want %q", p, got, err, want)
		}
	}
}

func TestMapping(t *testing.T) {
	got := mapping(1000, []int{30001, 0, 500, 0, 500, 30001})
	want := []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 30001, Size: 1}, {ContainerID: sandboxNobody, HostID: 0, Size: 1}, {ContainerID: 1<<16 + 2, HostID: 500, Size: 1}}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

func TestMapped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uid_map")
	if err := os.WriteFile(file, []byte("         0       1000          1\n         1     100000      65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]bool{0: true, 1: true, 30001: true, 65536: true, 65537: false} {
		if got := mapped(file, id); got != want {
			t.Errorf("%d: %t", id, got)
		}
	}
}

func TestDiagnoseIsNotAboutTheDisk(t *testing.T) {
	b := &build{Local: &Local{}}
	b.job.Derivation = new(storeexpr.Derivation)
	if f := b.failure(diagnose("clone", unix.ENOSPC)); f.Cause != store.CauseSystem {
		t.Errorf("cause %s", f.Cause)
	}
	if f := b.failure(message{saysFailed, unix.ENOSPC, "mkdir"}.err("")); f.Cause != store.CauseNoSpace {
		t.Errorf("cause %s", f.Cause)
	}
	// Nor is a disk, when a spawner begins, a limit on namespaces.
	const full = "create dev/null: no space left on device"
	if err := (message{saysFailed, unix.ENOSPC, full}).refusal(); err.Error() != full || !isFull(err) {
		t.Errorf("%v", err)
	}
	if err := (message{saysFailed, unix.EUSERS, "make a mount namespace: too many users"}).refusal(); !strings.Contains(err.Error(), "a limit on namespaces") || isFull(err) {
		t.Errorf("%v", err)
	}
}
