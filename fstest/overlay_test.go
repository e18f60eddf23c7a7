package fstest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// leaveOthers is for scripts in a mount namespace of their own, whose copies of
// all mounts would keep those of other tests alive after their end.
const leaveOthers = `
for m in $(awk '$3 == "fuse.storefs" {print $2}' /proc/self/mounts); do [ "$m" = "$STORE" ] || umount -l "$m"; done
`

// Below an overlay, as container runtimes make one of their layers, the first
// touch of everything works when the mount waits in lookups: only to open for
// writing fails (EROFS) at the very first, as a write to the store itself does.
func TestLowerLayerOfOverlay(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test mounts an overlay, which needs root")
	}
	l := newLab(t)
	kinds := map[string]string{
		"directory":  "mkdir -p $out/bin; cp $tool $out/bin/busybox; echo text > $out/file; ln -s file $out/link",
		"executable": "cp $tool $out",
		"regular":    "echo text > $out",
		"symlink":    "ln -s $target $out",
	}
	touches := map[string][]string{
		"directory": {
			`test "$(cat $P/file)" = text`, `test "$(cat $P/link)" = text`, `$P/bin/busybox true`, `test "$(stat -c %F $P)" = directory`, `test "$(stat -c %s $P/file)" = 5`,
			`ls $P | grep file`, `ls -l $P/ | grep file`, `find $P -name file | grep .`, `cd $P && test -f file`, `cp -a $P $T/copy && cat $T/copy/file`, `tar cf - -C ${P%/*} ${P##*/} | tar t | grep file`,
			`python3 -c "import os, sys; f = os.open(sys.argv[1], os.O_NOFOLLOW); print(os.listdir(f))" $P | grep file`, `PATH=$P/bin:$PATH; busybox true`, `rm $P/file; test ! -e $P/file; echo new > $P/new; test "$(cat $P/new)" = new`,
		},
		"executable": {`exec -a busybox $P true`, `test -x $P`, `test "$(stat -c %F $P)" = "regular file"`, `cat $P | wc -c | grep -v ^0$`},
		"regular":    {`test "$(cat $P)" = text`, `test "$(stat -c %s $P)" = 5`, `read a < $P && test $a = text`, `ls -l $P | grep ^-r--r--r--`, `cat $P; echo more >> $P; test "$(wc -l < $P)" = 2`},
		"symlink":    {`test "$(readlink $P)" = $TARGET`, `test -L $P`, `ls -l $P | grep -- '->'`, `test "$(stat -c %F $P)" = "symbolic link"`},
	}
	var body strings.Builder
	body.WriteString(`target = sh("target", "mkdir $out; echo x > $out/file")` + "\n")
	var cells []string
	for kind, scripts := range touches {
		for _, s := range scripts {
			name := fmt.Sprintf("c%d", len(cells))
			fmt.Fprintf(&body, "%s = sh(%q, %q, kind = %q, env = {\"tool\": tools + \"/bin/busybox\", \"target\": target.out})\n", name, name+"-"+kind, kinds[kind], kind)
			cells = append(cells, s)
		}
	}
	body.WriteString("default = [target")
	for i := range cells {
		fmt.Fprintf(&body, ", c%d", i)
	}
	body.WriteString("]\n")
	file := l.star("a.star", body.String())
	var script strings.Builder
	script.WriteString(leaveOthers + `
mount -t tmpfs none $LAB/mnt
mkdir $LAB/mnt/upper $LAB/mnt/work $LAB/mnt/merged
mount -t overlay -o lowerdir=$STORE,upperdir=$LAB/mnt/upper,workdir=$LAB/mnt/work none $LAB/mnt/merged
failed=0
`)
	outs := l.outputs(file)
	target, outs := outs[0], outs[1:]
	for i, c := range cells {
		out := outs[i]
		fmt.Fprintf(&script, "P=$LAB/mnt/merged/%s; T=$(mktemp -d -p $LAB/mnt); (%s) >$T/log 2>&1 || { echo '%s:'; cat $T/log; failed=1; }\n",
			out[strings.LastIndexByte(out, '/')+1:], c, strings.ReplaceAll(c, "'", `'\''`))
	}
	script.WriteString("exit $failed\n")
	if err := os.Mkdir(l.Dir+"/mnt", 0o755); err != nil {
		t.Fatal(err)
	}
	l.serve("--wait=lookup")
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-c", script.String())
	cmd.Env = append(l.env, "LAB="+l.Dir, "STORE="+l.Store, "TARGET="+target)
	cmd.Dir = "/"
	if r := run(t, cmd); r.status != 0 {
		t.Errorf("status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	// Nothing of that is in the store.
	if r := l.storefs("verify", "--check-contents"); r.status != 0 {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
}

// A container that was given the directory before the store was mounted there
// sees the mount, if the bind is an rslave one, and what it touches is built.
func TestMountPropagatesToContainers(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test makes mount namespaces, which needs root")
	}
	l := newLab(t)
	file := l.star("a.star", `default = sh("x", "mkdir $out; echo text > $out/file")`)
	out := l.outputs(file)[0]
	container := l.Dir + "/container"
	if err := os.MkdirAll(container+"/store", 0o755); err != nil {
		t.Fatal(err)
	}
	// A host whose mounts are shared, as systemd makes them, in a namespace of
	// its own; in it, a container; then the mount; then its end and another one.
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-euc", leaveOthers+`
mount --bind $LAB $LAB; mount --make-shared $LAB
mkfifo $LAB/go $LAB/done
unshare -m --propagation unchanged bash -euc '
	mount --make-rslave $LAB
	mount --rbind $LAB/store $LAB/container/store
	echo ready > $LAB/done
	read x < $LAB/go
	cat $LAB/container/store/'${OUT##*/}'/file > $LAB/first
	echo > $LAB/done
	read x < $LAB/go
	cat $LAB/container/store/'${OUT##*/}'/file > $LAB/second
' & container=$!
read x < $LAB/done
$BIN mount --background; echo > $LAB/go; read x < $LAB/done
$BIN umount
$BIN mount --background; echo > $LAB/go
wait $container
$BIN umount
cat $LAB/first $LAB/second
`)
	cmd.Env = append(l.env, "LAB="+l.Dir, "BIN="+binary, "OUT="+out, "STORE="+l.Store)
	cmd.Dir = "/"
	if r := run(t, cmd); r.status != 0 || r.stdout != "text\ntext\n" {
		t.Errorf("status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}

// A container that was given the export directory, before or after the mount,
// sees each store that is mounted from then on, also across the death of its
// server; and nothing when there is none.
func TestExportToContainers(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test makes mount namespaces, which needs root")
	}
	l := newLab(t)
	file := l.star("a.star", `
x = sh("x", "mkdir $out; echo x > $out/file")
y = sh("y", "mkdir $out; echo y > $out/file")
default = [x, y]`)
	outs := l.outputs(file)
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-euc", leaveOthers+`
mount -t tmpfs none /mnt
mkdir /mnt/export /mnt/host; mkfifo /mnt/go /mnt/done
$BIN mount --background --export=/mnt/export
unshare -m --propagation unchanged bash -euc '
	umount -l $STORE # as a container, it has what it is given only
	mkdir /mnt/container
	mount --rbind /mnt/export /mnt/container
	mount --make-rslave /mnt/container
	cat /mnt/container/store/'${X##*/}'/file
	echo > /mnt/done; read x < /mnt/go
	ls /mnt/container/store
	echo > /mnt/done; read x < /mnt/go
	cat /mnt/container/store/'${Y##*/}'/file
	echo > /mnt/done; read x < /mnt/go
	cat /mnt/container/store/'${X##*/}'/file
	umount -R /mnt/container
' & container=$!
read x < /mnt/done
$BIN umount; echo > /mnt/go; read x < /mnt/done
$BIN mount --background --export=/mnt/export; echo > /mnt/go; read x < /mnt/done
kill -9 $($BIN status --json | sed 's/.*"pid":\([0-9]*\).*/\1/'); echo > /mnt/go
wait $container
! $BIN mount --background --export=/mnt/export/nothing 2>/dev/null
$BIN umount
! grep -q "/mnt/export/store " /proc/self/mounts
umount /mnt/export
`)
	cmd.Env = append(l.env, "BIN="+binary, "X="+outs[0], "Y="+outs[1], "STORE="+l.Store)
	cmd.Dir = "/"
	if r := run(t, cmd); r.status != 0 || r.stdout != "x\ny\nx\n" {
		t.Errorf("status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}

// Where all mounts are shared, as systemd has it, a container may have been given the
// export directory before there has ever been a mount.
func TestExportToEarlierContainers(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test makes mount namespaces, which needs root")
	}
	l := newLab(t)
	out := l.outputs(l.star("a.star", `default = sh("x", "mkdir $out; echo text > $out/file")`))[0]
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-euc", leaveOthers+`
mount -t tmpfs none /mnt
mount --make-shared /mnt
mkdir /mnt/export $LAB/container; mkfifo /mnt/go /mnt/done
unshare -m --propagation unchanged bash -uc '
	mount --rbind /mnt/export $LAB/container
	mount --make-rslave $LAB/container
	echo > /mnt/done; read x < /mnt/go
	cat $LAB/container/store/'${OUT##*/}'/file
	echo > /mnt/done; read x < /mnt/go
	ls $LAB/container/store
	echo > /mnt/done; read x < /mnt/go
	cat $LAB/container/store/'${OUT##*/}'/file
' & container=$!
read x < /mnt/done
$BIN mount --background --export=/mnt/export; echo > /mnt/go; read x < /mnt/done
$BIN umount; echo > /mnt/go; read x < /mnt/done
$BIN mount --background --export=/mnt/export; echo > /mnt/go
wait $container
$BIN umount
! grep -q " /mnt/export" /proc/self/mounts
`)
	cmd.Env = append(l.env, "LAB="+l.Dir, "BIN="+binary, "OUT="+out, "STORE="+l.Store)
	cmd.Dir = "/"
	if r := run(t, cmd); r.status != 0 || r.stdout != "text\ntext\n" {
		t.Errorf("status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}
