// Package storeexpr reads and writes store expressions, the texts in ATerm form
// that Nix writes: derivations and closures as they were in 2004, and the
// derivations of today. It computes output paths by Nix's rule. It does no I/O:
// what an expression names is fetched by whoever asks.
package storeexpr

import "storefs/store"

// Form tells the two kinds of derivation apart.
type Form int

// The forms.
const (
	FormToday Form = iota // Derive([("out","path","algo","hash")],[("x.drv",["out"])],[srcs],…)
	Form2004              // Derive([outs],[ins],…) and Closure(…)
)

// Expr is a *Derivation or a *Closure.
type Expr interface {
	// AppendText appends the canonical text: sets sorted, no white space.
	AppendText(b []byte) []byte
	isExpr()
}

// Derivation says how to make outputs. Lists that are sets are sorted and
// without duplicates; strings are bytes.
type Derivation struct {
	Form     Form
	Outputs  []Output     // sorted by Name (today), by Path (2004)
	Inputs   []Input      // store expressions, sorted by Path
	Sources  []store.Path // today only: paths used as they are, sorted
	Platform string
	Builder  string
	Args     []string
	Env      []EnvVar // sorted by Name
}

// Output is one output. Those of 2004 have a Path only.
type Output struct {
	Name string
	Path store.Path
	Algo string // "" or, for a fixed output, "sha256", "r:sha256", …
	Hash string // "" or the fixed output's hash in base 16
}

// Input is a store expression that must be normalised first. Outputs are the
// names of those of its outputs that are used (today), sorted.
type Input struct {
	Path    store.Path
	Outputs []string
}

// EnvVar is one variable of the builder's environment.
type EnvVar struct{ Name, Value string }

// Closure is a normal form: roots, and every path that they need with its
// references.
type Closure struct {
	Roots    []store.Path // sorted
	Elements []Element    // sorted by Path
}

// Element is a path of a closure with its direct references (sorted), each of
// which is an element too.
type Element struct {
	Path       store.Path
	References []store.Path
}

func (*Derivation) isExpr() {}
func (*Closure) isExpr()    {}
