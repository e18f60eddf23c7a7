package daemon

import (
	"slices"
	"testing"

	"storefs/event"
)

func TestCondense(t *testing.T) {
	ev := func(k event.Kind, goal, text string) event.Event {
		return event.Event{Kind: k, Goal: path(goal + ".drv"), Text: text}
	}
	in := []event.Event{
		ev(event.Added, "a", ""), ev(event.Started, "a", ""), ev(event.Added, "b", ""), ev(event.Phase, "a", "sandbox"),
		ev(event.Log, "a", "line"), ev(event.Phase, "a", "build"), ev(event.Started, "b", ""), ev(event.Phase, "b", "sandbox"),
		ev(event.Done, "a", "built"), ev(event.Phase, "b", "build"), ev(event.Started, "c", ""),
	}
	var got []string
	for _, e := range condense(slices.Clone(in)) {
		got = append(got, string(e.Kind)+" "+e.Goal.Name()+" "+e.Text)
	}
	want := []string{
		"added a.drv ", "added b.drv ", "log a.drv line", "started b.drv ", "done a.drv built", "phase b.drv build", "started c.drv ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if rest := condense(in[:3]); len(rest) != 3 {
		t.Errorf("%v", rest)
	}
}
