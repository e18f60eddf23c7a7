package state

import (
	"strings"
	"sync"

	"storefs/store"
	"storefs/storeexpr"
)

// exprCacheSize bounds, in bytes of text, half of what the cache of expressions
// holds. Parsed they take about three times as much.
const exprCacheSize = 16 << 20

// exprCache keeps expressions that were asked for lately. When its young half
// is full, the old half goes: what is asked for again moves to the young one.
type exprCache struct {
	mu         sync.Mutex
	young, old map[store.Path]cachedExpr
	size       int // of young
}

type cachedExpr struct {
	expr storeexpr.Expr
	size int
}

func (c *exprCache) get(p store.Path) (storeexpr.Expr, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.young[p]; ok {
		return e.expr, true
	}
	e, ok := c.old[p]
	if ok {
		c.insert(p, e)
	}
	return e.expr, ok
}

func (c *exprCache) put(p store.Path, e storeexpr.Expr, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insert(p, cachedExpr{e, size})
}

func (c *exprCache) insert(p store.Path, e cachedExpr) {
	if c.young == nil || c.size+e.size > exprCacheSize {
		c.old, c.young, c.size = c.young, make(map[store.Path]cachedExpr), 0
	}
	c.young[store.Path(strings.Clone(string(p)))] = e // p may be a piece of a long text
	c.size += e.size
}

func (c *exprCache) remove(p store.Path) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.old, p)
	delete(c.young, p)
}
