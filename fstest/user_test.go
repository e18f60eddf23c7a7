package fstest

import (
	"os"
	"os/exec"
	"os/user"
	"strings"
	"syscall"
	"testing"
)

// An ordinary user builds, mounts, realises by touching, and keeps the mount when
// its server dies, with nothing but fusermount3, a /dev/fuse that may be opened, and user namespaces.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test drops from root to an ordinary user")
	}
	need(t, "fusermount3")
	l := newLab(t)
	file := l.star("a.star", `
inner = sh("inner", "mkdir $out; echo made by $(busybox id -u) > $out/file")
default = sh("outer", "mkdir $out; cat $in/file > $out/file", env = {"in": inner.out})
`)
	if err := exec.Command("chown", "-R", "65534:65534", l.Dir).Run(); err != nil {
		t.Fatal(err)
	}
	// /dev/fuse may be for root only here: a device of our own stands over it,
	// in a mount namespace of our own.
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-euc", leaveOthers+`
mknod -m 666 $LAB/fuse c 10 229
mount --bind $LAB/fuse /dev/fuse
setpriv --reuid=65534 --regid=65534 --clear-groups bash -euxc '
export HOME=$LAB TMPDIR=$LAB
rm -rf $STOREFS_STATE
$BIN init --store $STORE
$BIN mount --background
out=$($BIN query outputs $($BIN instantiate '`+file+`'))
test "$(cat $out/file)" = "made by 1000"
test "$(stat -c %u-%a-%Y $out/file)" = 65534-444-1
$BIN status >/dev/null
pid() { $BIN status --json | sed "s/.*\"pid\":\([0-9]*\).*/\1/"; }
exec 3<$out/file
old=$(pid); kill -9 $old
test "$(cat $out/file)" = "made by 1000"
test $old != $(pid)
old=$(pid); $BIN upgrade
test $old != $(pid)
test "$(cat <&3)" = "made by 1000"
exec 3<&-
$BIN umount
! mountpoint -q $STORE
$BIN verify --check-contents
$BIN mount --background
'
# fusermount3 does not unmount where there is no /etc/mtab.
cp -a /etc $LAB/etc
rm -f $LAB/etc/mtab
mount --bind $LAB/etc /etc
as_user="setpriv --reuid=65534 --regid=65534 --clear-groups"
if $as_user $BIN umount 2>$LAB/said; then exit 1; fi
grep "still mounted: .*/etc/mtab" $LAB/said
umount /etc
$as_user $BIN umount
! mountpoint -q $STORE
`)
	cmd.Env = append(l.env, "LAB="+l.Dir, "BIN="+binary, "STORE="+l.Store)
	cmd.Dir = l.Dir
	if r := run(t, cmd); r.status != 0 {
		log, _ := os.ReadFile(l.State + "/daemon.log")
		t.Errorf("status %d\n%s%s%s", r.status, r.stdout, r.stderr, log)
	}
}

// Whoever else asks is told whose the store is, by every command.
func TestAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test drops from root to an ordinary user")
	}
	l := newLab(t)
	l.serve()
	for _, args := range [][]string{{"query", "roots"}, {"status"}, {"umount"}, {"upgrade"}} {
		cmd := l.command(args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		r := run(t, cmd)
		if r.status != 1 || !strings.HasSuffix(r.stderr, "state "+l.State+": it belongs to uid 0, and this is uid 65534\n") || strings.Contains(r.stderr, "gone") {
			t.Errorf("%v: status %d: %s", args, r.status, r.stderr)
		}
	}
	l.stop()
}

// Without HOME the state is where the user database says, and never in whatever
// directory the command runs in.
func TestWithoutHome(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "this test drops from root to ordinary users")
	}
	nobody, err := user.LookupId("65534")
	if err != nil {
		missing(t, "there is no user 65534")
	}
	for _, tt := range []struct {
		uid    uint32
		status int
		want   string
	}{
		{65534, 1, "storefs: " + nobody.HomeDir + "/.local/state/storefs: "},
		{54321, 2, "storefs: uid 54321 has no home directory for a state directory: --state says where it is"},
	} {
		cmd := exec.Command(binary, "query", "roots")
		cmd.Env, cmd.Dir = []string{}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: 65534}}
		if r := run(t, cmd); r.status != tt.status || !strings.HasPrefix(r.stderr, tt.want) {
			t.Errorf("uid %d: status %d: %s", tt.uid, r.status, r.stderr)
		}
	}
}
