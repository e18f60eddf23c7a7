package normaliser

import (
	"testing"

	"storefs/builder"
	"storefs/store"
)

func TestOwnLimit(t *testing.T) {
	short := builder.Limits{MaxLog: 5}
	for _, c := range []struct {
		cause       store.Cause
		own, owners builder.Limits
		want        bool
	}{
		{store.CauseLog, short, builder.Limits{}, true},
		{store.CauseLog, short, builder.Limits{MaxLog: 6}, true},
		{store.CauseLog, short, short, false},
		{store.CauseLog, builder.Limits{}, short, false},
		{store.CauseLog, builder.Limits{Timeout: 1}, builder.Limits{}, false},
		// A builder that could not be executed, say, wrote nothing.
		{store.CauseBuilder, short, builder.Limits{}, false},
		{store.CauseTimeout, short, builder.Limits{}, false},
		{store.CauseTimeout, builder.Limits{Timeout: 1}, builder.Limits{}, true},
		{store.CauseTimeout, builder.Limits{MaxSilent: 1}, builder.Limits{MaxSilent: 2}, true},
	} {
		if got := ownLimit(&store.Failure{Cause: c.cause}, c.own, c.owners); got != c.want {
			t.Errorf("%s, limits %+v, of the owner %+v: %v", c.cause, c.own, c.owners, got)
		}
	}
}
