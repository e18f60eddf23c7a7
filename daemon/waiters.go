package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"storefs/normaliser"
	"storefs/progress"
)

// Doing says in a few words what the waiter waits for.
func Doing(w *normaliser.Waiter, now time.Time) string {
	return doing(w, func(since time.Time, expected time.Duration) string { return " " + span(now.Sub(since), expected) })
}

// doing has took say for how long.
func doing(w *normaliser.Waiter, took func(since time.Time, expected time.Duration) string) string {
	switch w.State {
	case normaliser.WaitPlan:
		return "looking what has to be done"
	case normaliser.WaitSlot:
		return "waiting for a slot"
	case normaliser.WaitRun:
		return phase(w.Phase) + took(w.Began, w.Expected)
	}
	s := "waiting for other goals"
	if w.Goals > 1 {
		s = fmt.Sprintf("%d goals to go", w.Goals)
	}
	if r := w.Slowest; r != nil {
		s += fmt.Sprintf("; %s: %s%s", progress.Name(r.Goal), phase(r.Phase), took(r.Since, r.Expected))
	}
	return s
}

func phase(p string) string { return cmp.Or(progress.Clean(p), "starting") }

// span is a time out of an expected one.
func span(d, expected time.Duration) string {
	s := progress.Duration(d)
	if expected > 0 {
		s += " of " + progress.Duration(expected)
	}
	return s
}

// WaitersText is a table for people, with a head line; the last column has
// spaces.
func WaitersText(waiters []normaliser.Waiter, now time.Time) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PID\tUID\tCOMMAND\tELAPSED\tLEFT\tPATH\tGOAL\tDOING")
	for i := range waiters {
		w := &waiters[i]
		left := "-"
		if w.Left > 0 {
			left = progress.About(w.Left)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", pid(w), w.UID, command(w), progress.Duration(now.Sub(w.Since)), left,
			w.Path, cmp.Or(string(w.Goal), "-"), Doing(w, now))
	}
	_ = t.Flush() // to memory
	return b.String()
}

func pid(w *normaliser.Waiter) string {
	if w.PID == 0 {
		return "-"
	}
	return fmt.Sprint(w.PID)
}

// command is the name in one word: a process may call itself what it likes.
func command(w *normaliser.Waiter) string {
	return cmp.Or(strings.ReplaceAll(progress.Clean(w.Command), " ", "_"), "-")
}

// Watched are the waiters as a display shows them.
func Watched(waiters []normaliser.Waiter) []progress.Waiter {
	list := make([]progress.Waiter, len(waiters))
	for i := range waiters {
		w := &waiters[i]
		who := fmt.Sprintf("%s (pid %s) waits for %s: ", command(w), pid(w), progress.Name(w.Path))
		list[i] = progress.Waiter{
			ID:    fmt.Sprint(w.PID, " ", w.Path, " ", w.Since.UnixNano()),
			Since: w.Since,
			Text:  who + doing(w, func(time.Time, time.Duration) string { return "" }),
			Now:   func(now time.Time) string { return who + Doing(w, now) },
		}
	}
	return list
}

// Sentence is all that there is to say to the waiter itself, in one line.
func Sentence(w *normaliser.Waiter, now time.Time) string {
	s := fmt.Sprintf("%s waits for %s: %s", command(w), progress.Name(w.Path), Doing(w, now))
	if w.Left > 0 {
		s += "; about " + progress.About(w.Left) + " left"
	}
	return s
}

// sameWaiters reports whether nothing but time has passed between the two.
func sameWaiters(a, b []normaliser.Waiter) bool {
	return slices.EqualFunc(a, b, func(a, b normaliser.Waiter) bool {
		return a.Caller == b.Caller && a.Path == b.Path && a.State == b.State && a.Phase == b.Phase && a.Goals == b.Goals
	})
}
