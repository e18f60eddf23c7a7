package daemon

import (
	"encoding/json"
	"math/bits"
	"slices"
	"strings"
	"time"

	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
)

// scanner reads JSON as encode.go writes it: without white space, the fields of
// an object in their order. Whatever else it meets, it gives up, and the whole
// text is for encoding/json to read: so what it takes is decoded as that would
// decode it, and its errors are nobody else's concern.
type scanner struct {
	text string // what is read are pieces of it
	pos  int
}

// is steps over s, if it is what follows.
func (t *scanner) is(s string) bool {
	if !strings.HasPrefix(t.text[t.pos:], s) {
		return false
	}
	t.pos += len(s)
	return true
}

// plain reads a string without escapes.
func (t *scanner) plain(s *string) bool {
	if t.pos >= len(t.text) || t.text[t.pos] != '"' {
		return false
	}
	begin := t.pos + 1
	end := begin + plainLen(t.text[begin:])
	if end == len(t.text) || t.text[end] != '"' {
		return false
	}
	*s, t.pos = t.text[begin:end], end+1
	return true
}

// str reads a string.
func (t *scanner) str(s *string) bool {
	if t.plain(s) {
		return true
	}
	if !t.is(`"`) {
		return false
	}
	end := t.pos
	for end < len(t.text) && t.text[end] != '"' {
		if t.text[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(t.text) {
		return false
	}
	var v string // and not *s, which would then be in the heap in all cases
	if json.Unmarshal([]byte(t.text[t.pos-1:end+1]), &v) != nil {
		return false
	}
	*s, t.pos = v, end+1
	return true
}

// plainLen is how many bytes b begins with that stand for themselves in a
// string of JSON and are ASCII: all but quotes, backslashes and control
// characters.
func plainLen(s string) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; n+8 <= len(s); n += 8 {
		b := s[n : n+8] // the compiler makes one load of this
		w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		quote, back := w^(ones*'"'), w^(ones*'\\')
		// The top bit is set of each byte that is none of those, and by a borrow
		// perhaps of some behind it: the first one is right.
		other := (w | (w - ones*' ') | ((quote - ones) &^ quote) | ((back - ones) &^ back)) & tops
		if other != 0 {
			return n + bits.TrailingZeros64(other)/8
		}
	}
	for n < len(s) && s[n] >= ' ' && s[n] < 0x80 && s[n] != '"' && s[n] != '\\' {
		n++
	}
	return n
}

// number reads an integer of at most 18 digits that is not 0.
func (t *scanner) number(n *int64) bool {
	negative := t.is("-")
	begin, v := t.pos, int64(0)
	for t.pos < len(t.text) && t.pos-begin < 18 && t.text[t.pos] >= '0' && t.text[t.pos] <= '9' {
		v = v*10 + int64(t.text[t.pos]-'0')
		t.pos++
	}
	if negative {
		v = -v
	}
	*n = v
	return t.pos > begin && t.text[begin] != '0'
}

// paths reads a list that is not empty into a piece of its own of slab.
func (t *scanner) paths(list, slab *[]store.Path) bool {
	if !t.is("[") {
		return false
	}
	begin := len(*slab)
	for more := true; more; more = t.is(",") {
		var s string
		if !t.str(&s) {
			return false
		}
		*slab = append(*slab, store.Path(s))
	}
	*list = slices.Clip((*slab)[begin:])
	return t.is("]")
}

// scanRecord reads a line of a stream.
func scanRecord[E, R any](t *scanner, rec *record[E, R]) bool {
	switch {
	case t.is(`{"event":`):
		rec.Event = new(E)
		s, ok := any(rec.Event).(*Seen)
		return ok && t.seen(s) && t.ends()
	case t.is(`{"end":true,"result":`):
		rec.End, rec.Result = true, new(R)
		r, ok := any(rec.Result).(*normaliser.Result)
		return ok && t.result(r) && t.ends()
	}
	return false
}

// ends reads the end of a record.
func (t *scanner) ends() bool { return t.is("}") && strings.TrimSuffix(t.text[t.pos:], "\n") == "" }

// seen reads an event.
func (t *scanner) seen(s *Seen) bool {
	var at, kind, goal string
	var expected, duration, count int64
	e := new(event.Event)
	ok := t.is(`{"event":{"time":`) && t.plain(&at) && e.Time.UnmarshalText([]byte(at)) == nil &&
		t.is(`,"kind":`) && t.str(&kind) &&
		(!t.is(`,"goal":`) || t.str(&goal)) &&
		(!t.is(`,"text":`) || t.str(&e.Text)) &&
		(!t.is(`,"paths":`) || t.paths(&e.Paths, new([]store.Path))) &&
		(!t.is(`,"expected":`) || t.number(&expected)) &&
		(!t.is(`,"duration":`) || t.number(&duration)) &&
		(!t.is(`,"count":`) || t.number(&count)) &&
		t.is("}}")
	e.Kind, e.Goal = event.Kind(kind), store.Path(goal)
	e.Expected, e.Duration, e.Count = time.Duration(expected), time.Duration(duration), int(count)
	s.Event = e
	return ok
}

// result reads a result without failures.
func (t *scanner) result(r *normaliser.Result) bool {
	if !t.is(`{"targets":[`) {
		return false
	}
	begin := t.pos
	var slab []store.Path
	for more := true; more; more = t.is(",") {
		var target normaliser.Target
		if !t.target(&target, &slab) {
			return false
		}
		if r.Targets == nil {
			// The others are about as long.
			n := (len(t.text)-begin)/(t.pos-begin) + 1
			r.Targets, slab = make([]normaliser.Target, 0, n), slices.Grow(slab, n*len(target.Paths))
		}
		r.Targets = append(r.Targets, target)
	}
	if !t.is(`],"counts":`) {
		return false
	}
	// They are numbers: the first brace ends them.
	n := strings.IndexByte(t.text[t.pos:], '}') + 1
	if json.Unmarshal([]byte(t.text[t.pos:t.pos+n]), &r.Counts) != nil {
		return false
	}
	t.pos += n
	return t.is("}")
}

func (t *scanner) target(target *normaliser.Target, slab *[]store.Path) bool {
	var p string
	if !t.is(`{"path":`) || !t.str(&p) || t.is(`,"paths":`) && !t.paths(&target.Paths, slab) || !t.is(`,"realised":`) {
		return false
	}
	target.Path, target.Realised = store.Path(p), t.is("true")
	return (target.Realised || t.is("false")) && t.is("}")
}

// decodeRequest reads what encodeRequest wrote, or what another client did.
func decodeRequest(data []byte, r *RealiseRequest) error {
	t := scanner{text: string(data)}
	slab := make([]store.Path, 0, len(data)/64+1)
	if t.is(`{"targets":`) && t.paths(&r.Targets, &slab) && t.is(`,"`) {
		// What follows is an object of its own, but for its brace.
		return json.Unmarshal(append([]byte(`{"`), data[t.pos:]...), r)
	}
	r.Targets = nil
	return json.Unmarshal(data, r)
}
