package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFailureIsItsCause(t *testing.T) {
	all := []error{
		ErrBuildFailed, ErrTimeout, ErrHashMismatch, ErrNotDeterministic, ErrRefused, ErrCycle,
		ErrBadExpr, ErrUnknown, ErrNoSpace, ErrUnreachable, ErrCancelled,
	}
	for cause, want := range map[Cause]error{
		CauseBuilder: ErrBuildFailed, CauseLog: ErrBuildFailed, CauseTimeout: ErrTimeout, CauseHash: ErrHashMismatch, CauseDeterminism: ErrNotDeterministic,
		CauseRefused: ErrRefused, CauseCycle: ErrCycle, CauseExpr: ErrBadExpr, CauseUnknown: ErrUnknown, CauseNoSpace: ErrNoSpace,
		CauseUnreachable: ErrUnreachable, CauseCancelled: ErrCancelled, CauseSystem: nil,
	} {
		data, err := json.Marshal(&Failure{Path: "/s/a", Cause: cause, Message: "no"})
		if err != nil {
			t.Fatal(err)
		}
		f := new(Failure)
		if err := json.Unmarshal(data, f); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if got := errors.Is(fmt.Errorf("wrapped: %w", f), e); got != (e == want) {
				t.Errorf("%s is %v: %v", cause, e, got)
			}
		}
	}
}

func TestFailureText(t *testing.T) {
	f := &Failure{
		Path: "/s/a.drv", Cause: CauseBuilder, Message: "the builder ended with status 3",
		Time: time.Date(2004, 5, 13, 22, 52, 37, 0, time.UTC), Builder: "/bin/sh", Status: 3,
		Log: []string{"one", "two"}, LogFile: "/state/log/a", Kept: "/state/builds/a",
		Chain: []Path{"/s/c.drv", "/s/b.drv", "/s/a.drv"},
	}
	const want = `/s/a.drv: the builder ended with status 3
cause: builder
builder: /bin/sh
exit status: 3
time: 2004-05-13T22:52:37Z
log: /state/log/a
kept: /state/builds/a
needed by:
  /s/c.drv
    /s/b.drv
      /s/a.drv
last 2 lines of the log:
  one
  two
`
	if diff := cmp.Diff(want, f.Text()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if got := f.Error(); got != "realise /s/a.drv: the builder ended with status 3 (needed by /s/c.drv)" {
		t.Errorf("Error() = %q", got)
	}
	f.Log = f.Log[1:]
	if text := f.Text(); !strings.HasSuffix(text, "\nlast line of the log:\n  two\n") {
		t.Errorf("%s", text)
	}
	f = &Failure{Path: "/s/a.drv", Cause: CauseTimeout, Message: "silent for 1s", Builder: "/bin/sh", Signal: "SIGKILL", Chain: []Path{"/s/a.drv"}}
	const short = `/s/a.drv: silent for 1s
cause: timeout
builder: /bin/sh
ended by signal: SIGKILL
time: 0001-01-01T00:00:00Z
`
	if diff := cmp.Diff(short, f.Text()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if got := f.Error(); got != "realise /s/a.drv: silent for 1s" {
		t.Errorf("Error() = %q", got)
	}
}
