package daemon

import (
	"bytes"
	"encoding/json"
	"strconv"

	"storefs/normaliser"
	"storefs/store"
)

// What is written for every goal and every target is appended by hand, since
// encoding/json takes most of the time of a request that has little to do
// otherwise. The bytes are the same; whatever is rare is left to encoding/json.

// appendJSON appends v as streams have it: without the escapes that are for
// HTML.
func appendJSON(b []byte, v any) ([]byte, error) {
	if s, ok := v.(*Seen); ok && s.Event != nil {
		if b, ok := appendSeen(b, s); ok {
			return b, nil
		}
	}
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return b, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// appendSeen appends an event; false if it is one for appendJSON.
func appendSeen(b []byte, s *Seen) ([]byte, bool) {
	e := s.Event
	if e.Failure != nil || s.Status != nil || s.Waiters != nil || s.Remaining != 0 {
		return b, false
	}
	text, err := e.Time.AppendText(append(b, `{"event":{"time":"`...))
	if err != nil {
		return b, false
	}
	text = appendString(append(text, `","kind":`...), string(e.Kind))
	if e.Goal != "" {
		text = appendString(append(text, `,"goal":`...), string(e.Goal))
	}
	if e.Text != "" {
		text = appendString(append(text, `,"text":`...), e.Text)
	}
	if len(e.Paths) > 0 {
		text = appendPaths(append(text, `,"paths":`...), e.Paths)
	}
	text = appendNumber(text, `,"expected":`, int64(e.Expected))
	text = appendNumber(text, `,"duration":`, int64(e.Duration))
	text = appendNumber(text, `,"count":`, int64(e.Count))
	return append(text, "}}"...), true
}

// appendNumber appends what stands before n, and n, unless it is 0.
func appendNumber(b []byte, before string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, before...), n, 10)
}

// plainResult reports whether appendTarget can write all targets of r.
func plainResult(r *normaliser.Result) bool {
	if r.Targets == nil || len(r.Failures) > 0 {
		return false
	}
	for i := range r.Targets {
		if r.Targets[i].Failure != nil {
			return false
		}
	}
	return true
}

// appendTarget appends a target without a failure.
func appendTarget(b []byte, t *normaliser.Target) []byte {
	b = appendString(append(b, `{"path":`...), string(t.Path))
	if len(t.Paths) > 0 {
		b = appendPaths(append(b, `,"paths":`...), t.Paths)
	}
	return append(strconv.AppendBool(append(b, `,"realised":`...), t.Realised), '}')
}

// encodeRequest writes what json.Marshal would, but for escapes.
func encodeRequest(r *RealiseRequest) ([]byte, error) {
	size := 256
	for _, p := range r.Targets {
		size += len(p) + len(`"",`)
	}
	b := appendPaths(append(make([]byte, 0, size), `{"targets":`...), r.Targets)
	rest := *r
	rest.Targets = nil
	text, err := json.Marshal(rest)
	if err != nil {
		return nil, err
	}
	return append(b, bytes.TrimPrefix(text, []byte(`{"targets":null`))...), nil
}

func appendPaths(b []byte, paths []store.Path) []byte {
	if paths == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, p := range paths {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, string(p))
	}
	return append(b, ']')
}

// appendString appends s in quotes.
func appendString(b []byte, s string) []byte {
	if plainLen(s) < len(s) {
		quoted, err := appendJSON(b, s)
		if err != nil {
			panic(err) // every string has a form in JSON
		}
		return quoted
	}
	return append(append(append(b, '"'), s...), '"')
}
