package buildertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"storefs/builder"
	"storefs/store"
)

// hostileTests are about builders that mean harm.
func hostileTests() tests {
	group := tests{
		"setuid by chmod": func(w *World) {
			r := w.Built(w.Job("chmod", `$probe chmod x > $out; (chmod u+s x; chmod g+s x; chmod 4755 x; chmod 2755 x) 2>&1 | grep -c 'not permitted' >> $out; stat -c %a x >> $out`, nil))
			ok, no := "ok", syscall.EPERM.Error()
			var want strings.Builder
			for _, c := range []struct{ mode, result string }{{"755", ok}, {"4755", no}, {"2755", no}} {
				for _, call := range []string{"fchmod", "fchmodat", "fchmodat2"} {
					want.WriteString(call + " " + c.mode + ": " + c.result + "\n")
				}
			}
			w.same("chmod", w.Text(r), want.String()+"4\n755\n")
		},
		"extended attributes": func(w *World) {
			r := w.Built(w.Job("xattr", `echo > x; $probe xattr x > $out`, nil))
			w.same("setxattr", w.Text(r), syscall.ENOTSUP.Error()+"\n")
		},
		// They have the ports of the machine, whatever the network.
		"sockets of virtual machines": func(w *World) {
			r := w.Built(w.Job("vsock", `$probe vsock > $out`, nil))
			w.same("socket", w.Text(r), syscall.EAFNOSUPPORT.Error()+"\n")
		},
		// Nobody has to wait for one to open what the builder may open, or leaves.
		"leases of files": func(w *World) {
			input := w.AddText("leased", "text")
			r := w.Built(w.Job("lease", `echo > x; ($probe lease x; $probe lease `+string(input.Path)+`) > $out`, func(j *builder.Job) { j.Inputs = append(j.Inputs, input) }))
			w.same("fcntl", w.Text(r), strings.Repeat(syscall.EINVAL.Error()+"\n", 2))
		},
		"a closed store directory": func(w *World) {
			for _, mode := range []string{"0", "500"} {
				r := w.Built(w.Job("closed", `echo text > $out; chmod `+mode+` $NIX_STORE 2>/dev/null; true`, nil))
				w.same("output", w.Text(r), "text\n")
				w.must(os.Rename(r.Outputs[0].Scratch, filepath.Join(w.T.TempDir(), "output")))
				r.Release()
			}
		},
		"links out of the store are not followed": func(w *World) {
			outside := filepath.Join(w.T.TempDir(), "outside")
			w.must(os.WriteFile(outside, []byte("outside"), 0o640))
			before, err := os.Lstat(outside)
			w.must(err)
			w.Built(w.Job("links", `mkdir -p $out/d; ln -s `+outside+` $out/file; ln -s / $out/root; ln -s .. $out/d/up; ln -s self $out/self; ln -s /etc/passwd $NIX_STORE/evil`, nil))
			after, err := os.Lstat(outside)
			w.must(err)
			if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
				w.T.Errorf("changed to %s %s", after.Mode(), after.ModTime())
			}
		},
		"daemons": func(w *World) {
			mark := fmt.Sprintf("%d.%d", 100_000+os.Getpid(), time.Now().UnixNano()%1e9)
			start := time.Now()
			w.Built(w.Job("daemons", `i=0; while [ $i -lt 50 ]; do (setsid sh -c 'trap "" TERM; (sleep `+mark+` &) ; sleep `+mark+`' &); i=$((i+1)); done; echo > $out`, nil))
			if took := time.Since(start); took > 10*time.Second {
				w.T.Errorf("it took %s", took)
			}
			if pids := Running("sleep\x00" + mark); len(pids) > 0 {
				w.T.Errorf("processes are left: %v", pids)
			}
		},
		"a namespace of its own": func(w *World) {
			file := filepath.Join(w.Options.Real, w.Shell.Path.Base(), "new")
			r := w.Built(w.Job("nested", `$probe nested `+string(w.Shell.Path)+` > $out 2>&1; true`, nil))
			if _, err := os.Lstat(file); err == nil {
				w.T.Fatalf("the builder wrote into an input:\n%s", w.Text(r))
			}
			if text := w.Text(r); strings.Contains(text, "<nil>") {
				w.T.Errorf("something worked:\n%s", text)
			}
		},
		"devices": func(w *World) {
			r := w.Built(w.Job("devices", `exec 2>&1 > $out; mknod x c 1 3; mknod y b 7 0; ls -A`, nil))
			w.same("files", w.Text(r), "")
		},
		"other processes": func(w *World) {
			r := w.Built(w.Job("processes", `ls -d /proc/[0-9]* | wc -l > $out; kill -9 -1 2>/dev/null; ls /proc/1/root/ >> $out 2>&1`, nil))
			if lines := strings.Split(w.Text(r), "\n"); lines[0] > "5" || len(lines[0]) != 1 {
				w.T.Errorf("processes: %s", w.Text(r))
			}
		},
		"other builds": func(w *World) {
			// The scratch directory of the host is nowhere in the sandbox.
			r := w.Built(w.Job("others", `ls `+w.Options.Builds+` > $out 2>&1; ls $NIX_STORE/.. >> $out; ls -A / | grep real >> $out; true`, nil))
			w.same("what it sees", strings.Join(strings.Split(w.Text(r), "\n")[1:], "\n"), "store.d\n")
		},
		"deep trees": func(w *World) {
			// Deeper than a path can say.
			w.Built(w.Job("deep", `$probe deep 700; echo > $out`, nil))
		},
	}
	for what, script := range map[string]string{
		"a fifo":        `mkdir $out; mkfifo $out/bad`,
		"a socket":      `mkdir $out; cd $out; $probe socket bad`,
		"a setuid file": `mkdir $out; $probe setuid $out/bad`,
		"only a fifo":   `mkfifo $out`,
	} {
		group["output with "+what] = func(w *World) {
			f := w.Failed(w.Job("unfit", script, func(*builder.Job) {}))
			part := "bad"
			if strings.HasPrefix(what, "only") {
				part = "fifo"
			}
			w.expect(f, store.CauseRefused, part)
		}
	}
	return group
}

// Running are the processes of this machine whose command line contains part.
func Running(part string) []string {
	var pids []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), part) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
