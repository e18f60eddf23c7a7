package state

import (
	"context"
	"errors"
	"fmt"
	"os"

	"storefs/store"
	"storefs/tree"
)

// Lost reports whether nothing is there of the valid path p: somebody has removed it,
// or the disk has. Whoever brings it puts it back.
func (s *State) Lost(p store.Path) bool {
	_, err := os.Lstat(s.Real(p))
	return errors.Is(err, os.ErrNotExist)
}

// mend puts an object back that is valid and lost, as Verify does with what it repairs:
// so it is what was registered, or nothing changes. It was begun at that time.
func (s *State) mend(ctx context.Context, o object, begun *since) error {
	if o.scratch == "" {
		o.scratch = s.newScratch("mend")
		defer tree.RemoveAll(o.scratch)
		if err := writeCanonical(o.scratch, o.text); err != nil {
			return err
		}
	}
	problem, err := s.VerifyPath(ctx, o.info.Path, VerifyOptions{Repair: func(context.Context, store.Info) (Output, func(), error) {
		return Output{Info: o.info, Scratch: o.scratch, Files: o.files}, nil, begun.Err()
	}})
	if err == nil && problem != nil && !problem.Repaired {
		err = fmt.Errorf("%s: %s", problem.Path, problem.Message)
	}
	return err
}
