package daemon

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"storefs/builder"
	"storefs/event"
	"storefs/normaliser"
	"storefs/store"
)

// byJSON is what encoding/json writes.
func byJSON(t testing.TB, v any) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// odd are strings that JSON cannot have as they are, or that nearly look so.
var odd = []string{"", "x", "1234567", "12345678", "123456789", "<&>", "\x7f", "\x1b[1mred\x1b[0m", "tab\t", `"`, `\`, `ends in \`, "1234567\"", "12345678\\9", "\x00", "\x1f", " ", "é", "\xff", "\u2028", "\x80\x81", strings.Repeat("long", 50) + "\n"}

// Whatever is written by hand is written as encoding/json would write it.
func TestEncode(t *testing.T) {
	times := []time.Time{{}, time.Unix(0, 0), time.Unix(1<<31, 5).UTC(), time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", -3600)), time.Now()}
	var events []event.Event
	for _, at := range times {
		events = append(events, event.Event{Time: at})
	}
	for _, s := range odd {
		events = append(events, event.Event{Kind: event.Kind(s), Goal: store.Path(s), Text: s, Paths: []store.Path{store.Path(s), "y"}})
	}
	for _, n := range []int64{1, -1, 1e9, math.MaxInt64, math.MinInt64} {
		events = append(events, event.Event{Expected: time.Duration(n), Duration: time.Duration(-n), Count: int(n)})
	}
	events = append(events, event.Event{Paths: []store.Path{}}, event.Event{Failure: &store.Failure{Message: "m"}})
	w := httptest.NewRecorder()
	out := newStreamWriter(w)
	var want strings.Builder
	for i := range events {
		sendEvents(out, Seen{Event: &events[i]})
		want.WriteString(byJSON(t, record[Seen, struct{}]{Event: &Seen{Event: &events[i]}}))
	}
	sendEvents(out, Seen{Remaining: time.Second}, Seen{Event: &events[0], Remaining: 1}, Seen{})
	want.WriteString(byJSON(t, record[Seen, struct{}]{Event: &Seen{Remaining: time.Second}}))
	want.WriteString(byJSON(t, record[Seen, struct{}]{Event: &Seen{Event: &events[0], Remaining: 1}}))
	want.WriteString(byJSON(t, record[Seen, struct{}]{Event: &Seen{}}))
	if d := cmp.Diff(want.String(), w.Body.String()); d != "" {
		t.Error(d)
	}
	for _, r := range results() {
		w := httptest.NewRecorder()
		newStreamWriter(w).end(r, nil)
		if d := cmp.Diff(byJSON(t, record[struct{}, normaliser.Result]{End: true, Result: r}), w.Body.String()); d != "" {
			t.Error(d)
		}
	}
	for _, r := range requests() {
		got, err := encodeRequest(&r)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(byJSON(t, r), string(got)+"\n"); d != "" {
			t.Error(d)
		}
	}
}

func results() []*normaliser.Result {
	all := []*normaliser.Result{
		{},
		{Targets: []normaliser.Target{}},
		{Targets: []normaliser.Target{}, Counts: event.Counts{Reused: 3, Built: 1}},
		{Targets: []normaliser.Target{{Path: "a", Paths: []store.Path{"b", "c"}, Realised: true}, {Path: "d", Paths: []store.Path{}}, {Path: "e"}}, Counts: event.Counts{CutOff: 12}},
		{Targets: []normaliser.Target{{Path: "a", Failure: &store.Failure{Message: "m"}}}, Failures: []*store.Failure{{Message: "m"}}},
		{Targets: []normaliser.Target{{Path: "a"}}, Failures: []*store.Failure{{Message: "m"}}},
	}
	r := &normaliser.Result{} // several chunks
	drvs, outs := jobs(1000)
	for i := range drvs {
		r.Targets = append(r.Targets, normaliser.Target{Path: drvs[i], Paths: outs[i:min(i+i%3, len(outs))], Realised: i%5 != 0})
	}
	all = append(all, r)
	for _, s := range odd {
		all = append(all, &normaliser.Result{Targets: []normaliser.Target{{Path: store.Path(s), Paths: []store.Path{store.Path(s)}}}})
	}
	return all
}

func requests() []RealiseRequest {
	all := []RealiseRequest{
		{},
		{Targets: []store.Path{}},
		{Targets: []store.Path{"/a"}},
		{Targets: []store.Path{"/a", "/b"}, KeepGoing: true, Jobs: 3, Limits: builder.Limits{Timeout: time.Minute, MaxLog: 5}, KeepFailed: true, Check: true, Logs: true, Details: true},
		{Targets: []store.Path{}, Check: true},
	}
	for _, s := range odd {
		all = append(all, RealiseRequest{Targets: []store.Path{store.Path(s), "/x"}, Jobs: -1})
	}
	return all
}

// lines are a stream of all kinds of records, with what may stand in them.
func lines(t testing.TB) []string {
	var all []string
	for _, s := range odd {
		e := event.Event{Time: time.Unix(1e9, 0).UTC(), Kind: event.Kind(s), Goal: store.Path(s), Text: s, Paths: []store.Path{store.Path(s)}, Expected: 1, Duration: -2, Count: 3}
		all = append(all, byJSON(t, record[Seen, struct{}]{Event: &Seen{Event: &e}}))
	}
	for _, r := range results() {
		all = append(all, byJSON(t, record[struct{}, normaliser.Result]{End: true, Result: r}))
	}
	return append(all, byJSON(t, record[Seen, struct{}]{Event: &Seen{Remaining: 1}}), byJSON(t, record[Seen, struct{}]{End: true, Error: &wireError{Message: "m"}}),
		`{"event":{"event":{"time":"2026-01-02T03:04:05Z","kind":"log"}}}`, `{"event":{"event":{"time":"2026-01-02\u005403:04:05Z","kind":"log"}}}`,
		`{"event":{"event":{"time":"2026-01-02T03:04:05+01:00","kind":"log","expected":0,"duration":01,"count":1e3}}}`,
		`{"event":{"event":{"time":"2026-01-02T03:04:05Z","kind":"log","count":1234567890123456789}}} x`,
		`{"event":{"event":{"time":"2026-01-02T03:04:05Z","kind":"log","text":"a\"}}}`,
		`{"end":true,"result":{"targets":[{"path":"a","realised":true},]}}`, `{"end":true,"result":{"targets":[{"path":"a","paths":[],"realised":null}],"counts":{"reused":-0}}}`,
		`{"end":true,"result":{"targets":[{"path":"a","paths":["b"],"realised":false}],"counts":{"reused":5,"new":"}"}}}`,
		`{"end":true,"result":{"targets":[{"path":"a","paths":["b"],"realised":false}],"counts":{"reused":5,"new":6}}}`, `{"end":true,"result":{"targets":[{"path":"a","realised":true}],"counts":null}}`)
}

// Whatever the scanner takes, it reads as encoding/json does.
func checkRecord(t *testing.T, line string) (taken bool) {
	t.Helper()
	var got, want record[Seen, normaliser.Result]
	if !scanRecord(&scanner{text: line}, &got) {
		return false
	}
	if err := json.Unmarshal([]byte(line), &want); err != nil {
		t.Fatalf("%q was taken: %v", line, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%q: want -, got +:\n%s", line, d)
	}
	return true
}

func checkRequest(t *testing.T, text string) {
	t.Helper()
	var got, want RealiseRequest
	gerr, werr := decodeRequest([]byte(text), &got), json.Unmarshal([]byte(text), &want)
	if (gerr == nil) != (werr == nil) {
		t.Fatalf("%q: %v, want %v", text, gerr, werr)
	}
	if d := cmp.Diff(want, got); d != "" && werr == nil {
		t.Errorf("%q: want -, got +:\n%s", text, d)
	}
}

func TestScan(t *testing.T) {
	taken := 0
	for _, line := range lines(t) {
		if checkRecord(t, line) {
			taken++
		}
		for n := range min(len(line)-1, 500) {
			if checkRecord(t, line[:n]) && line[n:] != "\n" {
				t.Fatalf("%q was taken", line[:n])
			}
		}
	}
	// All of what encode.go writes, but for results with failures or without targets.
	if want := 2*len(odd) + 4; taken != want {
		t.Errorf("%d records were taken, not %d", taken, want)
	}
	for _, r := range requests() {
		checkRequest(t, byJSON(t, r))
	}
	for _, text := range []string{
		``, `{`, `{}`, `null`, `[]`, `{"targets":["a"]}`, `{"targets":["a"],}`, `{"targets":["a"],"jobs":2`, `{"targets":["a"],"jobs":2}`, `{"targets":["a"],"jobs":2}}`,
		`{"targets":["a","b"],"targets":[null]}`, `{"targets":["a"],"jobs":"2"}`, `{"targets":[1],"jobs":2}`, `{"targets":["a" ],"jobs":2}`, `{"jobs":2,"targets":["\u0061"]}`, `{"targets":["\u0061","\ud800"],"jobs":2}`,
	} {
		checkRequest(t, text)
	}
}

// Nothing is forgotten that these types come to have: each field alone is written
// and read as encoding/json does it.
func TestAllFields(t *testing.T) {
	eachField(t, func(e *event.Event) {
		e.Time = time.Unix(1e9, 0).UTC()
		checkSeen(t, Seen{Event: e})
	})
	eachField(t, func(s *Seen) { checkSeen(t, *s) })
	checkResult := func(r *normaliser.Result) {
		w := httptest.NewRecorder()
		newStreamWriter(w).end(r, nil)
		if d := cmp.Diff(byJSON(t, record[struct{}, normaliser.Result]{End: true, Result: r}), w.Body.String()); d != "" {
			t.Error(d)
		}
		checkRecord(t, w.Body.String())
	}
	eachField(t, func(target *normaliser.Target) {
		checkResult(&normaliser.Result{Targets: []normaliser.Target{*target}})
	})
	eachField(t, func(r *normaliser.Result) {
		checkResult(r)
		r.Targets = []normaliser.Target{{Path: "/a"}}
		checkResult(r)
	})
	eachField(t, func(r *RealiseRequest) {
		r.Targets = []store.Path{"/a"}
		got, err := encodeRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(byJSON(t, r), string(got)+"\n"); d != "" {
			t.Error(d)
		}
		checkRequest(t, string(got))
	})
}

func checkSeen(t *testing.T, s Seen) {
	t.Helper()
	w := httptest.NewRecorder()
	sendEvents(newStreamWriter(w), s)
	if d := cmp.Diff(byJSON(t, record[Seen, struct{}]{Event: &s}), w.Body.String()); d != "" {
		t.Error(d)
	}
	checkRecord(t, w.Body.String())
}

// eachField calls check with a T for each of its fields, in which only that is set.
func eachField[T any](t *testing.T, check func(*T)) {
	t.Helper()
	for i := range reflect.TypeFor[T]().NumField() {
		var v T
		field := reflect.ValueOf(&v).Elem().Field(i)
		if !field.CanSet() {
			continue // nor does encoding/json see it
		}
		switch field.Kind() {
		case reflect.String:
			field.SetString("text")
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Int, reflect.Int64:
			field.SetInt(7)
		case reflect.Pointer:
			field.Set(reflect.New(field.Type().Elem()))
		case reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
			if field.Index(0).Kind() == reflect.Pointer {
				field.Index(0).Set(reflect.New(field.Type().Elem().Elem()))
			}
		case reflect.Struct:
			eachNumber(field)
		default:
			t.Fatalf("%s.%s: the test cannot set a %s", field.Type(), reflect.TypeFor[T]().Field(i).Name, field.Kind())
		}
		check(&v)
	}
}

// eachNumber sets the exported integers of a struct.
func eachNumber(v reflect.Value) {
	for i := range v.NumField() {
		if f := v.Field(i); f.CanSet() && f.CanInt() {
			f.SetInt(7)
		}
	}
}

// What an older or a newer client or owner says is read, whatever fields it has
// more or less, and in whatever order.
func TestOtherVersions(t *testing.T) {
	var rec record[Seen, normaliser.Result]
	for _, line := range []string{
		`{"event":{"event":{"time":"2026-01-02T03:04:05Z","kind":"log","text":"x","new":{"a":[1]}}},"more":1}`,
		`{"more":1,"event":{"event":{"text":"x","kind":"log","time":"2026-01-02T03:04:05Z"}}}`,
		`{ "event": {"event": {"kind": "log", "text": "x"}}}`,
	} {
		got, err := readStream[Seen, normaliser.Result](strings.NewReader(line+"\n"+`{"end":true,"result":{"new":[],"targets":[{"path":"/a","new":0,"realised":true}]}}`+"\n"), func(s Seen) {
			if s.Event == nil || s.Event.Kind != "log" || s.Event.Text != "x" {
				t.Errorf("%s: read as %+v", line, s.Event)
			}
		})
		if err != nil || len(got.Targets) != 1 || got.Targets[0].Path != "/a" || !got.Targets[0].Realised {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for _, text := range []string{`{"targets":["/a"],"new":{"x":1},"jobs":2}`, `{"new":0,"jobs":2,"targets":["/a"]}`} {
		var r RealiseRequest
		if err := decodeRequest([]byte(text), &r); err != nil || len(r.Targets) != 1 || r.Targets[0] != "/a" || r.Jobs != 2 {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
	for _, line := range []string{`{"event":{"event":{"time":"yesterday"}}}`, `{"event":{"event":{"count":"1"}}}`, `{"end":true,"result":{"targets":7}}`, `nonsense`} {
		err := json.Unmarshal([]byte(line), &rec)
		if _, got := readStream[Seen, normaliser.Result](strings.NewReader(line+"\n"), func(Seen) {}); got == nil || !strings.HasSuffix(got.Error(), err.Error()) {
			t.Errorf("%s: %v, want one with %v", line, got, err)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, line := range lines(f) {
		if len(line) < 1000 {
			f.Add(line)
		}
	}
	for _, r := range requests() {
		f.Add(byJSON(f, r))
	}
	f.Fuzz(func(t *testing.T, text string) {
		checkRecord(t, text)
		checkRequest(t, text)
		if got, want := string(appendString(nil, text))+"\n", byJSON(t, text); got != want {
			t.Errorf("%q is written %s, not %s", text, got, want)
		}
	})
}

// What the owner would not take is not sent.
func TestLongRequest(t *testing.T) {
	f := newFake(t)
	_, socket := f.serve()
	c := dial(t, socket)
	c.longest = 1000
	_, err := c.Realise(t.Context(), RealiseRequest{Targets: []store.Path{store.Path(strings.Repeat("x", 1000))}}, nil)
	if err == nil || !strings.Contains(err.Error(), "more than the 1000 that the owner of the store takes") {
		t.Error(err)
	}
}
