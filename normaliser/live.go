package normaliser

import "sync"

// liveGoals is what the graph has goals for, for planners in other goroutines:
// a lookup in the middle of a big build must not walk all that is left of it.
// What it says may be over when the plan is merged; then the plan is made again.
type liveGoals struct {
	mu    sync.RWMutex
	goals map[key]wants
}

// covers reports whether there is a goal for k that yields all that w names.
func (l *liveGoals) covers(k key, w wants) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	have, ok := l.goals[k]
	return ok && have.covers(w)
}

func (l *liveGoals) set(k key, w wants) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.goals[k] = w
}

func (l *liveGoals) delete(k key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.goals, k)
}
