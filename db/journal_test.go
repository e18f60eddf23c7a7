package db

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// journal is all that happens to a fake disk, and to those who use it, in order. A
// seed does not decide in which order they meet.
type journal struct {
	mu    sync.Mutex
	lines []fmt.Stringer
}

// lazily makes a text when it is asked for, if ever.
type lazily func() string

func (f lazily) String() string { return f() }

// newJournal is one that is written to a file if t fails.
func newJournal(t *testing.T) *journal {
	j := new(journal)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		f, err := os.CreateTemp("", "storefs-disk-")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, l := range j.lines {
			fmt.Fprintln(f, l)
		}
		t.Logf("what happened, in order: %s", f.Name())
	})
	return j
}

// note adds a line. What args refer to must not change any more.
func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, lazily(func() string { return fmt.Sprintf(format, args...) }))
}

// metaOf is a meta page of bbolt.
func metaOf(page []byte) lazily {
	return func() string {
		m, err := readMeta(bytes.NewReader(page), 0)
		if m == nil {
			return fmt.Sprint("broken: ", err)
		}
		return fmt.Sprint("transaction ", m.txid)
	}
}

// bodyOf is what a record makes valid, and, with a "-" before it, invalid.
func bodyOf(body []byte) lazily {
	return func() string {
		changes, err := decodeChanges(body, 0)
		if err != nil {
			return err.Error()
		}
		var names []string
		for _, c := range changes {
			if _, name, _ := strings.Cut(c.key, "-"); c.bucket == bucketValid && c.value != nil {
				names = append(names, name)
			} else if c.bucket == bucketValid {
				names = append(names, "-"+name)
			}
		}
		return strings.Join(names, " ")
	}
}

// logOf is all whole records of a log, also those that are over.
func logOf(log []byte) lazily {
	return func() string {
		l := &redoLog{}
		if err := withFile(log, func(f *os.File) error {
			l.file = f
			return l.readHead()
		}); err != nil {
			return err.Error()
		}
		s := fmt.Sprintf("log %x:", l.head.salt[:4])
		for page := 1; page < l.head.pages; page++ {
			l.seq = binary.BigEndian.Uint64(log[page*logPage:]) - 1
			if body, ok := l.record(log, page); ok {
				s += fmt.Sprintf(" [%d at %d: %v]", l.seq+1, page, bodyOf(body))
			}
		}
		return s
	}
}

// fileOf is what is valid in a file of bbolt, and where it is in the log.
func fileOf(db []byte) lazily {
	return func() (s string) {
		if err := withFile(db, func(f *os.File) error {
			return guard(func() error {
				b, err := bolt.Open(f.Name(), 0o600, &bolt.Options{ReadOnly: true})
				if err != nil {
					return err
				}
				defer b.Close()
				return b.View(func(tx *bolt.Tx) error {
					s = fmt.Sprintf("file, transaction %d:", tx.ID())
					if p, err := decodePosition(bucketMeta.in(tx).Get([]byte(keyLog))); err == nil {
						s += fmt.Sprintf(" (log %x, record %d, page %d, open %v)", p.salt[:4], p.seq, p.page, p.open)
					}
					return bucketValid.in(tx).ForEach(func(k, _ []byte) error {
						_, name, _ := strings.Cut(string(k), "-")
						s += " " + name
						return nil
					})
				})
			})
		}); err != nil {
			s += " " + err.Error()
		}
		return s
	}
}

// withFile calls do with a file that has b.
func withFile(b []byte, do func(f *os.File) error) error {
	dir, err := os.MkdirTemp("", "storefs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}
