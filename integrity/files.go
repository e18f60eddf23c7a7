package integrity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"slices"
	"sort"
	"strings"
	"sync"

	"storefs/nar"
	"storefs/store"
)

// Files are the hashes of all files, links and directories of one object, as they
// lie in one file: 41 bytes for each, so that an object of 100,000 files has 4 MB
// of them, which are read when the first of these is touched, and are in nobody's
// transaction.
//
// The layout, numbers big-endian: magic; NAR hash (32 bytes); number of entries
// (8); the entries, sorted by key; CRC-32C of all that (4). An entry is the key,
// which is the beginning of the SHA-256 of the path (8), the kind (1), and the
// SHA-256 of the contents or the target (32); of a directory, of the keys and
// kinds of the entries in it, sorted by key. A directory without files, in it or
// below, has no entry. The NAR hash keeps the record of one build from being taken
// for that of another.
type Files struct{ data []byte }

const (
	filesMagic = "storefs-files-2\n"
	headSize   = len(filesMagic) + sha256.Size + 8
	keySize    = 8
	entrySize  = keySize + 1 + sha256.Size
	tailSize   = 4
)

// errNoFiles: these are not the hashes of that object, or no longer.
var errNoFiles = errors.New("damaged record of file hashes")

// DecodeFiles takes data over: the record of the object with that NAR hash.
func DecodeFiles(data []byte, narHash store.Hash) (*Files, error) {
	n := len(data) - headSize - tailSize
	switch {
	case n < 0 || n%entrySize != 0 || string(data[:len(filesMagic)]) != filesMagic:
	case uint64(n/entrySize) != binary.BigEndian.Uint64(data[headSize-8:]):
	case string(data[len(filesMagic):headSize-8]) != narHash.Sum:
	case checksum(data[:len(data)-tailSize]) != binary.BigEndian.Uint32(data[len(data)-tailSize:]):
	default:
		return &Files{data}, nil
	}
	return nil, errNoFiles
}

// checksum is computed by an instruction of the processor: 4 MB take 0.3 ms.
func checksum(data []byte) uint32 {
	return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
}

// Bytes is the record as it is to be kept; it must not be changed.
func (f *Files) Bytes() []byte { return f.data }

// Len is the number of files, links and directories.
func (f *Files) Len() int { return (len(f.data) - headSize - tailSize) / entrySize }

// find returns the index of what is at path and what it was, kind and hash as in
// an entry; false if there was nothing.
func (f *Files) find(path string) (index uint32, was []byte, ok bool) {
	key := fileKey(path)
	i := sort.Search(f.Len(), func(i int) bool { return bytes.Compare(f.entry(i)[:keySize], key[:]) >= 0 })
	if i == f.Len() || [keySize]byte(f.entry(i)) != key {
		return 0, nil, false
	}
	return uint32(i), f.entry(i)[keySize:], true
}

func (f *Files) entry(i int) []byte { return f.data[headSize+i*entrySize:][:entrySize] }

func fileKey(path string) [keySize]byte {
	h := sha256.Sum256([]byte(path))
	return [keySize]byte(h[:])
}

// kinds are the letters of kinds in entries.
var kinds = map[store.Kind]byte{
	store.KindRegular: 'r', store.KindExecutable: 'x', store.KindSymlink: 'l', store.KindDirectory: 'd',
}

// Recorder collects the hashes of an object's files while it is read.
type Recorder struct {
	mu      sync.Mutex
	entries []recorded
}

type recorded struct {
	path  string
	entry [entrySize]byte
}

func newRecorded(path string, kind store.Kind) recorded {
	e := recorded{path: path}
	key := fileKey(path)
	copy(e.entry[:], key[:])
	e.entry[keySize] = kinds[kind]
	return e
}

var _ nar.FileFunc = (*Recorder)(nil).File

// File takes one file or link.
func (r *Recorder) File(path string, kind store.Kind, sum [sha256.Size]byte) {
	e := newRecorded(path, kind)
	copy(e.entry[keySize+1:], sum[:])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
}

// Files is the record of the object that was read, nil if it needs none.
func (r *Recorder) Files(s nar.Summary) *Files {
	if !byFile(s.Kind, s.Size) {
		return nil
	}
	r.addDirectories()
	data := make([]byte, 0, headSize+len(r.entries)*entrySize+tailSize)
	data = append(data, filesMagic...)
	data = append(data, s.Hash.Sum...)
	data = binary.BigEndian.AppendUint64(data, uint64(len(r.entries)))
	for i := range r.entries {
		data = append(data, r.entries[i].entry[:]...)
	}
	return &Files{binary.BigEndian.AppendUint32(data, checksum(data))}
}

// addDirectories adds the directories that the files are in, and sorts all.
func (r *Recorder) addDirectories() {
	contents := make(map[string]hash.Hash)
	for _, e := range r.entries {
		for dir, inside := parent(e.path); inside && contents[dir] == nil; dir, inside = parent(dir) {
			contents[dir] = sha256.New()
			r.entries = append(r.entries, newRecorded(dir, store.KindDirectory))
		}
	}
	slices.SortFunc(r.entries, func(a, b recorded) int { return bytes.Compare(a.entry[:], b.entry[:]) })
	for i := range r.entries {
		e := &r.entries[i]
		if dir, inside := parent(e.path); inside {
			contents[dir].Write(e.entry[:keySize+1])
		}
	}
	for i := range r.entries {
		if e := &r.entries[i]; e.entry[keySize] == kinds[store.KindDirectory] {
			copy(e.entry[keySize+1:], contents[e.path].Sum(nil))
		}
	}
}

// parent is the directory that path is in, unless that is the object itself.
func parent(path string) (dir string, inside bool) {
	return path[:max(strings.LastIndexByte(path, '/'), 0)], path != ""
}
