package state

import (
	"context"
	"fmt"
	"io"

	"storefs/integrity"
	"storefs/nar"
	"storefs/store"
)

// copyTree makes a canonical copy at scratch of what is at path, whose NAR must
// have the hash want.
func copyTree(ctx context.Context, path, scratch string, want store.Hash) (*integrity.Files, error) {
	r, w := io.Pipe()
	dumped := make(chan struct{})
	go func() {
		defer close(dumped)
		w.CloseWithError(nar.Dump(w, path))
	}()
	sum, files, err := restore(ctx, r, scratch)
	r.CloseWithError(io.ErrClosedPipe) // ends the other side, if it has not ended
	<-dumped
	if err != nil {
		return nil, err
	}
	if !sum.Hash.Equal(want) {
		return nil, fmt.Errorf("%s: it changed while it was copied: %w", path, store.ErrUnfit)
	}
	return files, nil
}
