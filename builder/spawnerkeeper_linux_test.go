package builder

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What is short now is not short for ever: a spawner is tried again, and not for each
// build.
func TestSpawnerIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err   error
		again bool
	}{
		{fmt.Errorf("start a spawner: %w", diagnose("fork/exec /proc/self/exe: "+unix.EAGAIN.Error(), unix.EAGAIN)), true},
		{diagnose("clone", unix.ENOMEM), true},
		{fmt.Errorf("socketpair: %w", unix.EMFILE), true},
		{diagnose("clone", unix.EPERM), false},
		{errors.New("the trial of a sandbox ended with status 0x100"), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			tries, said, err := 0, 0, c.err
			k := &spawnerKeeper{
				start: func(spawnerConfig, identity) (*spawner, error) {
					tries++
					if err != nil {
						return nil, err
					}
					return &spawner{}, nil
				},
				say: func(string) { said++ },
			}
			for range 35 { // 3.5 s
				if k.get() != nil {
					t.Fatalf("%v: there is a spawner", c.err)
				}
				time.Sleep(100 * time.Millisecond)
			}
			want := 1
			if c.again {
				want = 4
			}
			if tries != want || said != 1 {
				t.Errorf("%v: it was tried %d times, want %d, and said %d times", c.err, tries, want, said)
			}
			time.Sleep(time.Second)
			err = nil
			if got := k.get() != nil; got != c.again {
				t.Errorf("%v: when it could be had, there is one: %v", c.err, got)
			}
		})
	}
}
