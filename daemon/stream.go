package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
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
	buf   *bufio.Writer
	enc   *json.Encoder
	ended bool
}

func newStreamWriter(w http.ResponseWriter) *streamWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	buf := bufio.NewWriterSize(w, 32<<10)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	return &streamWriter{w: w, buf: buf, enc: enc}
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
		_ = s.enc.Encode(record[E, struct{}]{Event: &events[i]})
	}
	s.flush()
}

// end writes the last record.
func (s *streamWriter) end(result any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	r := record[struct{}, any]{End: true, Error: encodeError(err)}
	if result != nil {
		r.Result = &result
	}
	if merr := s.enc.Encode(r); merr != nil {
		// It was not a matter of the connection if this can be written.
		_ = s.enc.Encode(record[struct{}, any]{End: true, Error: encodeError(errors.Join(err, merr))})
	}
	s.flush()
}

func (s *streamWriter) flush() {
	_ = s.buf.Flush()
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
		if err := json.Unmarshal(line, &rec); err != nil {
			return nil, fmt.Errorf("read the owner's answer: %w", err)
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

func readLine(br *bufio.Reader) ([]byte, error) {
	var whole []byte
	for {
		part, err := br.ReadSlice('\n')
		if err == nil && whole == nil {
			return part, nil
		}
		whole = append(whole, part...)
		if err == nil {
			return whole, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(whole) > maxRecord {
			return nil, fmt.Errorf("read the owner's answer: a line of more than %d bytes", maxRecord)
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
