package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"storefs/normaliser"
)

// record is one line of a stream: something that happened meanwhile, or the
// end. A stream without an end was cut.
type record[E, R any] struct {
	Event  *E         `json:"event,omitempty"`
	End    bool       `json:"end,omitempty"`
	Result *R         `json:"result,omitempty"`
	Error  *wireError `json:"error,omitempty"`
}

// streamWriter writes records. Its methods may be called from any goroutine.
type streamWriter struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	buf   []byte // not written yet
	ended bool
}

// chunk is how much is written at a time.
const chunk = 32 << 10

func newStreamWriter(w http.ResponseWriter) *streamWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &streamWriter{w: w}
}

// sendEvents writes events and flushes. Errors are left to the end: a client that
// has gone cancels the request's context.
func sendEvents[E any](s *streamWriter, events ...E) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(events) == 0 {
		return
	}
	for i := range events {
		begin := len(s.buf)
		text, err := appendJSON(append(s.buf, `{"event":`...), &events[i])
		if err != nil {
			s.buf = s.buf[:begin]
			continue
		}
		s.buf = append(text, "}\n"...)
		s.room()
	}
	s.flush()
}

// end writes the last record.
func (s *streamWriter) end(result any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if r, ok := result.(*normaliser.Result); ok && r != nil && err == nil && plainResult(r) {
		s.result(r)
		s.flush()
		return
	}
	r := record[struct{}, any]{End: true, Error: encodeError(err)}
	if result != nil {
		r.Result = &result
	}
	text, merr := appendJSON(s.buf, r)
	if merr != nil {
		// It was not a matter of the connection if this can be written.
		text, _ = appendJSON(s.buf, record[struct{}, any]{End: true, Error: encodeError(errors.Join(err, merr))})
	}
	s.buf = append(text, '\n')
	s.flush()
}

// result writes a result, however long it is, in chunks.
func (s *streamWriter) result(r *normaliser.Result) {
	s.buf = append(s.buf, `{"end":true,"result":{"targets":[`...)
	for i := range r.Targets {
		if i > 0 {
			s.buf = append(s.buf, ',')
		}
		s.buf = appendTarget(s.buf, &r.Targets[i])
		s.room()
	}
	s.buf = append(s.buf, `],"counts":`...)
	text, err := appendJSON(s.buf, r.Counts)
	if err != nil {
		panic(err) // they are numbers
	}
	s.buf = append(text, "}}\n"...)
}

// room writes what there is if it is much.
func (s *streamWriter) room() {
	if len(s.buf) >= chunk {
		s.write()
	}
}

func (s *streamWriter) write() {
	_, _ = s.w.Write(s.buf)
	s.buf = s.buf[:0]
}

func (s *streamWriter) flush() {
	s.write()
	_ = http.NewResponseController(s.w).Flush()
}

// maxRecord bounds one line: the result of a request with very many targets
// is the longest.
const maxRecord = 1 << 30

// readStream calls each for every event and returns the result. Both the
// result and an error may come.
func readStream[E, R any](r io.Reader, each func(E)) (*R, error) {
	br := bufio.NewReaderSize(r, 32<<10)
	for {
		line, err := readLine(br)
		if err != nil {
			return nil, err
		}
		var rec record[E, R]
		if !scanRecord(&scanner{text: line}, &rec) {
			rec = record[E, R]{}
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				return nil, fmt.Errorf("read the owner's answer: %w", err)
			}
		}
		if rec.End {
			return rec.Result, rec.Error.decode()
		}
		if rec.Event == nil {
			return nil, errors.New("read the owner's answer: a line that says nothing")
		}
		if each != nil {
			each(*rec.Event)
		}
	}
}

func readLine(br *bufio.Reader) (string, error) {
	var parts [][]byte
	size := 0
	for {
		part, err := br.ReadSlice('\n')
		if err == nil && size == 0 {
			return string(part), nil
		}
		if size += len(part); size > maxRecord {
			return "", fmt.Errorf("read the owner's answer: a line of more than %d bytes", maxRecord)
		}
		parts = append(parts, bytes.Clone(part))
		switch {
		case err == nil:
			var line strings.Builder
			line.Grow(size)
			for _, p := range parts {
				line.Write(p)
			}
			return line.String(), nil
		case errors.Is(err, io.EOF):
			return "", io.ErrUnexpectedEOF
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

// writeJSON answers a request with v.
func writeJSON(w http.ResponseWriter, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}

// writeError answers a request with err.
func writeError(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus(err))
	_ = json.NewEncoder(w).Encode(encodeError(err))
}
