package builder

import (
	"context"
	"fmt"

	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// checkFixed holds what was made of the fixed output o to its promise, and returns
// its content address.
func (b *build) checkFixed(ctx context.Context, o storeexpr.Output, made Output) (ca string, err error) {
	want, recursive, err := o.Content()
	if err != nil {
		return "", fail(store.CauseExpr, "fixed output %s: %v", o.Path, err)
	}
	if !recursive && made.Info.Kind != store.KindRegular {
		return "", fail(store.CauseRefused, "fixed output %s is %s, and its hash is that of one file that cannot be executed", o.Path, describeKind(made.Info.Kind))
	}
	have, err := contentHash(ctx, want.Algo, recursive, made)
	if err != nil {
		return "", err
	}
	ca = "fixed:" + have.String()
	if recursive {
		ca = "fixed:r:" + have.String()
	}
	if !have.Equal(want) {
		made.Info.CA = ca
		return "", fail(store.CauseHash, "hash mismatch in fixed output: want %s got %s%s", want.SRI(), have.SRI(), b.offer(made, recursive, have))
	}
	if refs := made.Info.References; len(refs) > 0 {
		// Its name says what is in it, and nothing of what that needs.
		return "", fail(store.CauseRefused, "fixed output %s must not refer to %s", o.Path, refs[0])
	}
	return ca, nil
}

// offer gives what was made of a fixed output that has another hash than promised to
// whoever may have a use for it, and returns what there is to say of that.
func (b *build) offer(made Output, recursive bool, have store.Hash) string {
	if b.job.Mismatch == nil || len(made.Info.References) > 0 {
		return "" // with references, it is no fixed output's content, whatever is promised
	}
	p, err := store.FixedPath(b.opts.Store, recursive, have, made.Info.Path.Name(), nil, false)
	if err == nil {
		made.Info.Path, made.Info.Deriver = p, ""
		err = b.job.Mismatch(made)
	}
	if err != nil {
		return fmt.Sprintf("; what came cannot be kept: %v", err)
	}
	return fmt.Sprintf("; what came is kept at %s", p)
}

func contentHash(ctx context.Context, a store.Algo, recursive bool, made Output) (store.Hash, error) {
	if recursive && a == store.SHA256 {
		return made.Info.NarHash, nil
	}
	return nar.HashAs(ctx, made.Scratch, a, recursive)
}
