package event

import (
	"fmt"
	"strings"
)

// Counts are goals by what became of them, each counted once.
type Counts struct {
	Built       int `json:"built"`
	Reused      int `json:"reused"`
	CutOff      int `json:"cutOff"`
	Substituted int `json:"substituted"`
	Failed      int `json:"failed"`
}

// Add counts a goal that is done, with one of the Outcome… names.
func (c *Counts) Add(outcome string) {
	switch outcome {
	case OutcomeBuilt:
		c.Built++
	case OutcomeReused:
		c.Reused++
	case OutcomeCutOff:
		c.CutOff++
	case OutcomeSubstituted:
		c.Substituted++
	}
}

// Plus is both together.
func (c Counts) Plus(o Counts) Counts {
	return Counts{
		Built:       c.Built + o.Built,
		Reused:      c.Reused + o.Reused,
		CutOff:      c.CutOff + o.CutOff,
		Substituted: c.Substituted + o.Substituted,
		Failed:      c.Failed + o.Failed,
	}
}

// After is c, of what was asked for again, and before, of the time before that: what was
// made then is among what c has as reused, and what had failed was tried again.
func (c Counts) After(before Counts) Counts {
	c.Reused = max(0, c.Reused-before.Built-before.Reused-before.CutOff-before.Substituted)
	before.Failed = 0
	return before.Plus(c)
}

// String is the counts for people: "3 built, 1 cut off". What there is none of is
// left out; it is "" if there is nothing.
func (c Counts) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{
		{c.Built, OutcomeBuilt},
		{c.Reused, OutcomeReused},
		{c.CutOff, OutcomeCutOff},
		{c.Substituted, OutcomeSubstituted},
		{c.Failed, "failed"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}
