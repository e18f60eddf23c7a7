package fs_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"storefs/fs"
	"storefs/store"
)

// Where the system limits how long a request may take, who waits longer for a
// build gets ETIMEDOUT. The kernel would end the whole mount for that request.
func TestRequestTimeout(t *testing.T) {
	const sysctl = "/proc/sys/fs/fuse/default_request_timeout"
	before, err := os.ReadFile(sysctl)
	if err != nil {
		t.Skip("this kernel has no time limits on requests: Linux 6.14 has")
	}
	if err := os.WriteFile(sysctl, []byte("15"), 0); err != nil {
		missing(t, "this test sets a time limit on requests, which needs root: "+err.Error())
	}
	// It is the mount's from its beginning on.
	restored := false
	restore := func() {
		if !restored {
			restored = true
			if err := os.WriteFile(sysctl, before, 0); err != nil {
				t.Error(err)
			}
		}
	}
	defer restore()
	s := newFakeStore(t)
	hold := make(chan struct{})
	long := s.add(name(1, "long"), recipe{promised: store.KindDirectory, hold: hold, make: tree})
	short := s.add(name(2, "short"), recipe{promised: store.KindDirectory, make: tree})
	dir, _ := mount(t, s, func(*fs.Options) {})
	restore()
	begin := time.Now()
	out, err := sh(t, dir, "ls $S/$1/", long)
	if err == nil || !strings.Contains(out, "timed out") {
		t.Errorf("%v: %s", err, out)
	}
	if took := time.Since(begin); took < 10*time.Second || took > 15*time.Second {
		t.Errorf("after %v, want 12 s", took)
	}
	must(t, dir, "test -d $S/$1/. && echo there", "there", short)
	close(hold)
	must(t, dir, "test -d $S/$1/. && echo there", "there", long)
}
