package integrity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"storefs/store"
)

// Memory is what was found whole since the machine was started. It is kept in a
// file, to which every finding is appended, so that neither the next mount nor
// one that follows a crash reads everything again. Nothing is synced: the file
// is worth nothing after a power failure anyway.
//
// The file begins with the machine's boot id and a newline; each record is the
// object's key (8 bytes) and what of it was found whole: the index of a file (4
// bytes, big-endian), allFiles, or noFiles, which takes back what was said before.
type Memory struct {
	mu      sync.Mutex
	file    *os.File
	size    int64
	objects map[objectKey]*fileSet
}

// objectKey stands for an object as it was registered: what was found out of one
// build says nothing of another, also if the two are the same.
type objectKey [8]byte

func keyOf(i store.Info) objectKey {
	b := append([]byte(i.Path.Base()), 0)
	b = append(b, i.NarHash.Sum...)
	h := sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(i.Registered)))
	return objectKey(h[:])
}

const (
	allFiles   = 1<<32 - 1
	noFiles    = 1<<32 - 2
	memorySize = 12 // of a record
	// maxMemory bounds the file, and with it what is in memory. Beyond it, what
	// is looked at for the first time in a mount is looked at again in the next.
	maxMemory = 64 << 20
)

// fileSet is a set of indices; nil is all of them.
type fileSet struct{ words []uint64 }

func (s *fileSet) has(i uint32) bool {
	if s == nil {
		return true
	}
	w := int(i / 64)
	return w < len(s.words) && s.words[w]&(1<<(i%64)) != 0
}

func (s *fileSet) add(i uint32) {
	for int(i/64) >= len(s.words) {
		s.words = append(s.words, 0)
	}
	s.words[i/64] |= 1 << (i % 64)
}

// OpenMemory opens the memory in the file at path, which is begun anew after a
// boot.
func OpenMemory(path string) (*Memory, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("identify this boot: %w", err)
	}
	return openMemory(path, boot)
}

func openMemory(path string, boot []byte) (*Memory, error) {
	boot = append(bytes.TrimSpace(boot), '\n')
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	m := &Memory{objects: make(map[objectKey]*fileSet)}
	if m.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	records, ours := bytes.CutPrefix(data, boot)
	if !ours || len(data) >= maxMemory {
		records = nil
		if err = m.file.Truncate(0); err == nil {
			_, err = m.file.Write(boot)
		}
	} else if part := len(records) % memorySize; part > 0 {
		// A crash came in the middle of a record.
		records = records[:len(records)-part]
		err = m.file.Truncate(int64(len(boot) + len(records)))
	}
	if err != nil {
		m.file.Close()
		return nil, err
	}
	m.size = int64(len(boot) + len(records))
	for ; len(records) > 0; records = records[memorySize:] {
		m.note(objectKey(records), binary.BigEndian.Uint32(records[8:]))
	}
	return m, nil
}

// Close closes the file.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file.Close()
}

// has reports whether file i of the object, or all of it, was found whole.
func (m *Memory) has(k objectKey, i uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.objects[k]
	return ok && (s == nil || i != allFiles && s.has(i))
}

// add keeps what was found out, or, with noFiles, takes it back.
func (m *Memory) add(k objectKey, i uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[k]; !ok && i == noFiles {
		return nil
	}
	m.note(k, i)
	if m.size >= maxMemory && i != noFiles {
		return nil
	}
	if _, err := m.file.Write(binary.BigEndian.AppendUint32(k[:], i)); err != nil {
		// After a part of a record, none could be read.
		return errors.Join(err, m.file.Truncate(m.size))
	}
	m.size += memorySize
	return nil
}

func (m *Memory) note(k objectKey, i uint32) {
	s, ok := m.objects[k]
	switch {
	case i == noFiles:
		delete(m.objects, k)
	case i == allFiles:
		m.objects[k] = nil
	case !ok:
		s = &fileSet{}
		m.objects[k] = s
		s.add(i)
	case s != nil:
		s.add(i)
	}
}
