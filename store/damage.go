package store

import (
	"fmt"
	"strings"
	"time"
)

// Damage is a valid path that was found not to be what was registered.
type Damage struct {
	Path     Path      `json:"path"`
	File     string    `json:"file,omitempty"` // where in it, if that is known
	Message  string    `json:"message"`        // one line
	Found    time.Time `json:"found"`
	Repaired time.Time `json:"repaired,omitzero"` // when it was made anew
	// Unrepaired is why it could not be made anew, "" if nobody has tried.
	Unrepaired string `json:"unrepaired,omitempty"`
}

// Text is what to tell people, in lines that are each ended by a newline.
func (d *Damage) Text() string {
	var b strings.Builder
	where := ""
	if d.File != "" {
		where = d.File + ": "
	}
	fmt.Fprintf(&b, "damaged: %s%s (found %s)\n", where, d.Message, d.Found.Format(time.RFC3339))
	switch {
	case !d.Repaired.IsZero():
		fmt.Fprintf(&b, "repaired: %s\n", d.Repaired.Format(time.RFC3339))
	case d.Unrepaired != "":
		fmt.Fprintf(&b, "not repaired: %s\n", strings.ReplaceAll(d.Unrepaired, "\n", "; "))
	}
	return b.String()
}
