package normaliser

import (
	"slices"
	"time"
)

// maxEstimates is how many of the last estimates are scored.
const maxEstimates = 200

// Estimates is how good the last expected durations were.
type Estimates struct {
	// Count is how many builds had one, of the last ones.
	Count int `json:"count"`
	// MedianError is the part by which half of them were wrong at most: 0.1 is a
	// tenth of what the builder took.
	MedianError float64 `json:"medianError"`
}

// scores are the errors of the last estimates.
type scores struct {
	errors []float64
	next   int // the oldest one, once there are maxEstimates
}

// add notes that a builder took so long, where expected was expected.
func (s *scores) add(expected, took time.Duration) {
	if expected <= 0 || took <= 0 {
		return
	}
	e := max(expected-took, took-expected).Seconds() / took.Seconds()
	if len(s.errors) < maxEstimates {
		s.errors = append(s.errors, e)
		return
	}
	s.errors[s.next] = e
	s.next = (s.next + 1) % maxEstimates
}

func (s *scores) estimates() Estimates {
	if len(s.errors) == 0 {
		return Estimates{}
	}
	sorted := slices.Sorted(slices.Values(s.errors))
	return Estimates{Count: len(sorted), MedianError: sorted[len(sorted)/2]}
}
