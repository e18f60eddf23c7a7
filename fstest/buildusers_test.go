package fstest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A Nix beside it ends, before and after each of its builds, whatever runs as the build user
// that it takes: nixbld1 to nixbld32, whose numbers are 30001 to 30032. Those it does not
// reach are builders and spawners of storefs. All that happens in a pid namespace, so that it
// reaches nobody else either.
func TestBesideNixBuildUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "only root has builders of another user")
	}
	need(t, "setpriv")
	l := newLab(t)
	star := l.star("slow.star", `
default = [sh("slow%d" % i, "sleep 1; echo %d > $out" % i, kind = "regular") for i in range(2)]
`)
	script := l.write("beside", `
"$1" build "$2" & build=$!
while kill -0 $build 2>/dev/null; do
	for user in $(seq 30001 30032); do
		setpriv --reuid $user --regid 30000 --clear-groups sh -c 'kill -KILL -1' 2>/dev/null
	done
done
wait $build
`)
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "sh", script, binary, star)
	cmd.Env = l.env
	r := run(t, cmd)
	if r.status != 0 || strings.Contains(r.stderr, "longer") { // a spawner that cannot be started
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
}
