package nar

import (
	"context"
	"fmt"
	"hash"
	"io"

	"storefs/references"
	"storefs/store"
)

// IngestOptions says what Ingest makes of an output.
type IngestOptions struct {
	// UID and GID become the owner of every file; -1 leaves what is.
	UID, GID int
	// Candidates are the paths that may be referred to; nil are none.
	Candidates *Candidates
	// File, if set, is told of every file, from the same read.
	File FileFunc
}

// Ingest makes what is at path fit for the store, and hashes and scans it in the
// same read: owner, modes 0444 and 0555, modification time 1 (of links too), no
// extended attributes or access control lists but labels of the kernel. It never
// follows a link, and works through directory descriptors, so that nothing
// outside of path is touched whatever path holds.
//
// Setuid and setgid files, devices, fifos, sockets, and files that change
// meanwhile are refused with store.ErrUnfit; the message names the path inside.
// After an error, path is left half canonical.
func Ingest(ctx context.Context, path string, o IngestOptions) (Summary, error) {
	s, err := summarise(ctx, path, reading{canon: &canon{o.UID, o.GID}, file: o.File}, o.Candidates)
	if err != nil {
		return Summary{}, fmt.Errorf("ingest %s: %w", path, err)
	}
	return s, nil
}

// IngestCopy is Ingest of a copy that it makes at dest, where nothing may be yet: for what
// somebody may have open, who could write into it afterwards. What is at path is in
// canonical form then, too. After an error, nothing is left of what it made.
func IngestCopy(ctx context.Context, path, dest string, o IngestOptions) (Summary, error) {
	r, w := io.Pipe()
	restored := make(chan error, 1)
	go func() {
		err := Restore(r, dest, RestoreOptions{File: o.File})
		r.CloseWithError(err) // ends the other side, if it has not ended
		restored <- err
	}()
	s, err := summarise(ctx, path, reading{canon: &canon{o.UID, o.GID}}, o.Candidates, w)
	w.CloseWithError(err)
	if e := <-restored; err == nil {
		err = e
	}
	if err != nil {
		return Summary{}, fmt.Errorf("copy %s: %w", path, err)
	}
	return s, nil
}

// HashPath hashes and scans what is at path, and changes nothing.
func HashPath(ctx context.Context, path string, candidates ...store.Path) (Summary, error) {
	s, err := summarise(ctx, path, reading{}, NewCandidates(candidates))
	if err != nil {
		return Summary{}, fmt.Errorf("hash %s: %w", path, err)
	}
	return s, nil
}

// HashFiles hashes what is at path and, in the same read, each file of it. It
// changes nothing.
func HashFiles(ctx context.Context, path string, file FileFunc) (Summary, error) {
	s, err := summarise(ctx, path, reading{file: file}, nil)
	if err != nil {
		return Summary{}, fmt.Errorf("hash %s: %w", path, err)
	}
	return s, nil
}

// Dump writes the archive of what is at path to w.
func Dump(w io.Writer, path string) error {
	_, err := archive(context.Background(), path, reading{}, w)
	if err != nil {
		return fmt.Errorf("dump %s: %w", path, err)
	}
	return nil
}

// HashAs hashes what is at path with any algorithm: its archive, or, not
// recursively, the contents of a regular file. It changes nothing.
func HashAs(ctx context.Context, path string, algo store.Algo, recursive bool) (store.Hash, error) {
	if algo.Size() == 0 {
		return store.Hash{}, fmt.Errorf("hash %s: unknown algorithm %q", path, algo)
	}
	d := newDigest(algo)
	var err error
	if recursive {
		_, err = archive(ctx, path, reading{}, d)
	} else {
		err = contents(ctx, path, d)
	}
	if err != nil {
		return store.Hash{}, fmt.Errorf("hash %s: %w", path, err)
	}
	return d.sum(), nil
}

// TextSummary is what Ingest would find in a file that holds text and cannot be
// executed; it scans nothing.
func TextSummary(text []byte) Summary {
	d := newDigest(store.SHA256)
	var head []byte
	for _, s := range []string{magic, "(", "type", "regular", "contents"} {
		head = appendString(head, s)
	}
	// A digest refuses nothing.
	_, _ = d.Write(appendNumber(head, uint64(len(text))))
	_, _ = d.Write(text)
	_, _ = d.Write(appendString(appendPadding(nil, int64(len(text))), ")"))
	return Summary{Kind: store.KindRegular, Hash: d.sum(), Size: d.size}
}

func summarise(ctx context.Context, path string, how reading, candidates *Candidates, stages ...io.Writer) (Summary, error) {
	var scanner *references.Scanner
	if candidates != nil {
		scanner = candidates.set.Scanner()
		stages = append(stages, scanner)
	}
	d := newDigest(store.SHA256)
	kind, err := archive(ctx, path, how, append(stages, d)...)
	if err != nil {
		return Summary{}, err
	}
	s := Summary{Kind: kind, Hash: d.sum(), Size: d.size}
	if scanner != nil {
		s.References = candidates.referred(scanner.Found())
	}
	return s, nil
}

// digest hashes and counts what is written to it.
type digest struct {
	hash.Hash
	algo store.Algo
	size int64
}

func newDigest(a store.Algo) *digest { return &digest{Hash: a.New(), algo: a} }

func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.Hash.Write(p)
}

func (d *digest) sum() store.Hash { return store.Hash{Algo: d.algo, Sum: string(d.Sum(nil))} }
