package event

import "testing"

func TestCounts(t *testing.T) {
	var c Counts
	for _, outcome := range []string{OutcomeBuilt, OutcomeCutOff, OutcomeBuilt, OutcomeReused} {
		c.Add(outcome)
	}
	if got, want := c.String(), "2 built, 1 reused, 1 cut off"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	both := c.Plus(Counts{Substituted: 3, Failed: 1, CutOff: 1})
	if want := (Counts{Built: 2, Reused: 1, CutOff: 2, Substituted: 3, Failed: 1}); both != want {
		t.Errorf("%+v, want %+v", both, want)
	}
	if got := (Counts{}).String(); got != "" {
		t.Errorf("nothing is %q", got)
	}
}
