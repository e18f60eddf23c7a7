package fstest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Nothing that walks, counts, globs or saves what is around the store starts a
// build: not below the mount point, not from above it, not in a repository that
// the mount point is in. (Who follows a link into the store touches what it leads
// to; these do not.)
func TestCrawlersStartNothing(t *testing.T) {
	l := newLab(t)
	file := l.star("a.star", `
ready = sh("ready", "mkdir -p $out/bin; echo text > $out/file; ln -s file $out/link")
default = [sh("d%d" % i, "sleep 100; mkdir $out") for i in range(3)] + [sh("f%d" % i, "sleep 100; echo > $out", kind = "regular") for i in range(3)]
`)
	ready := l.ok("build", file+":ready")[0]
	outs := l.outputs(file)
	// Next to the mount point: links into the store, as `nix-build` leaves them.
	for i, o := range outs {
		if err := exec.Command("ln", "-s", o, l.Dir+"/result-"+fmt.Sprint(i)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	l.inShell(`ln -s ` + ready + ` result; git init -q . && git add a.star result*`)
	l.serve()
	events := l.watch()
	tmp := t.TempDir()
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", tmp).Run() })
	for _, c := range []struct{ tool, script string }{
		{"", `ls $STORE; ls -la $STORE; ls -lR $STORE; ls --color=always -F $STORE; ls -l . ; ls -F --color=always .`},
		{"", `find $STORE; find $STORE -type f; find . -xdev; find .. -maxdepth 2 -xdev >/dev/null; find $PWD -newer a.star -ls`},
		{"", `df; df $STORE; df -i $STORE; du -s $STORE; du -xs .; du -ch $STORE/*`},
		{"", `tar cf /dev/null --one-file-system . ; tar cf /dev/null -C $STORE .; cp -a --one-file-system . $(mktemp -d)/copy`},
		{"rsync", `rsync -a --one-file-system . $(mktemp -d)/copy`},
		{"", `cd $STORE; echo *; echo */*; echo .*; for f in *; do test -d $f; done; compgen -f $STORE/; compgen -f $STORE/0; compgen -d $STORE/; compgen -G "$STORE/*/bin"`},
		{"git", `git status --porcelain; git add -n .; git diff; git ls-files -o; git grep -q nothing`},
		{"grep", `grep -r nothing $STORE; grep -r nothing . --devices=skip`},
		// What updatedb and indexers do: walk by d_type, look at every name twice.
		{"python3", `python3 -c "
import os, glob
store = os.environ['STORE']
for e in os.scandir(store): e.is_dir(), e.is_file(), e.is_symlink(), e.stat(follow_symlinks=False)
for top, dirs, files in os.walk(store): [os.lstat(os.path.join(top, f)) for f in files + dirs]
for top, dirs, files, fd in os.fwalk(store): [os.stat(f, dir_fd=fd, follow_symlinks=False) for f in files + dirs]
glob.glob(store + '/*'); glob.glob(store + '/**/file', recursive=True); glob.glob(store + '/*/bin')
for root in store, '.':
	for e in os.scandir(root): e.is_dir(follow_symlinks=False), e.inode(), os.listxattr(e.path, follow_symlinks=False)
os.statvfs(store)
"`},
		// A name that is typed in part, and swap and backup files beside the real ones.
		{"", `for o in $STORE/*; do test -e $o~; test -e $o.swp; test -e $STORE/.${o##*/}.swp; test -e $STORE/.git; test -e $STORE/.hidden; test -e $STORE/package.json; done`},
		{"vim", `vim -es -u NONE -c "call glob('$STORE/*') | call glob('$STORE/**/file') | call readdir('$STORE') | call getcompletion('$STORE/', 'file')" -c 'edit $STORE/' -c 'qa!'`},
		{"", `cat $STORE/.storefs/status $STORE/.storefs/waiters; ls -R $STORE/.storefs; for f in $OUTS; do cat $STORE/.storefs/why/$f $STORE/.storefs/info/$f; done`},
	} {
		if c.tool != "" {
			if _, err := exec.LookPath(c.tool); err != nil {
				continue
			}
		}
		var names []string
		for _, o := range outs {
			names = append(names, filepath.Base(o))
		}
		// Whether they succeed is not the question here; that they end is.
		l.inShell("set +e; export TMPDIR=" + tmp + " OUTS='" + strings.Join(names, " ") + "'; cd " + l.Dir + "; timeout 20 bash -c " + quote(c.script) + "; test $? != 124 || echo too slow >&2")
		if s := events(); s.started() != 0 {
			t.Fatalf("started a build: %s", c.script)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
