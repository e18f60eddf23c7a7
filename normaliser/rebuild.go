package normaliser

import (
	"context"
	"fmt"

	"storefs/builder"
	"storefs/store"
)

// Rebuild builds the derivation drv, whose inputs must be valid, in scratch:
// its outputs are not registered, also if they are not valid, and no slot is
// waited for. It is for outputs that were damaged. The caller releases the
// result.
func (n *Normaliser) Rebuild(ctx context.Context, drv store.Path) (*builder.Result, error) {
	d, err := n.derivation(drv)
	if err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", drv, err)
	}
	// It has no slot that what is prepared could take over.
	j := &job{key: key{kindCheck, drv}, origin: &origin{}, run: &run{}, heir: builder.NoHeir}
	inputs, err := n.inputs(j, d)
	if err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", drv, err)
	}
	defer inputs.Release()
	res, err := n.run(ctx, j, d, inputs, true)
	if err == nil {
		if err = inputs.Err(); err != nil {
			res.Release()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", drv, err)
	}
	return res, nil
}
