package nar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"storefs/store"
)

func candidates(n int) []store.Path {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	paths := make([]store.Path, n)
	for i := range paths {
		digest := make([]byte, store.DigestLen)
		for j := range digest {
			digest[j] = "0123456789abcdfghijklmnpqrsvwxyz"[r.IntN(32)]
		}
		paths[i] = store.Path("/nix/store/" + string(digest) + "-x")
	}
	return paths
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// BenchmarkSHA256 is the mark for everything else.
func BenchmarkSHA256(b *testing.B) {
	p := noise(16 << 20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		sha256.Sum256(p)
	}
}

func BenchmarkLargeFile(b *testing.B) {
	const size = 512 << 20
	dir := memDir(b)
	for name, p := range map[string][]byte{
		"noise":  noise(size),
		"base32": bytes.Repeat([]byte("0123456789abcdfghijklmnpqrsvwxyz"), size/32),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, p, 0o644); err != nil {
			b.Fatal(err)
		}
		for _, n := range []int{0, 100, 10_000} {
			b.Run(fmt.Sprintf("%s/candidates=%d", name, n), func(b *testing.B) {
				c := candidates(n)
				b.SetBytes(size)
				for b.Loop() {
					if _, err := HashPath(context.Background(), path, c...); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkSmallFiles(b *testing.B) {
	for _, n := range []int{1, 20, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := filepath.Join(memDir(b), "tree")
			text := noise(4800)
			for i := range n {
				sub := filepath.Join(dir, fmt.Sprint(i/100))
				if err := os.MkdirAll(sub, 0o755); err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), text, 0o644); err != nil {
					b.Fatal(err)
				}
			}
			c := candidates(100)
			b.Run("hash", func(b *testing.B) {
				for b.Loop() {
					if _, err := HashPath(context.Background(), dir, c...); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/file")
			})
			b.Run("ingest-again", func(b *testing.B) {
				for b.Loop() {
					if _, err := Ingest(context.Background(), dir, IngestOptions{UID: -1, GID: -1, Candidates: NewCandidates(c)}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/file")
			})
			var archive bytes.Buffer
			if err := Dump(&archive, dir); err != nil {
				b.Fatal(err)
			}
			b.Run("restore", func(b *testing.B) {
				dest := dir + "-restored"
				for b.Loop() {
					if err := Restore(bytes.NewReader(archive.Bytes()), dest, RestoreOptions{}); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					os.RemoveAll(dest)
					b.StartTimer()
				}
			})
			b.Run("parse", func(b *testing.B) {
				b.SetBytes(int64(archive.Len()))
				for b.Loop() {
					if _, err := HashStream(bytes.NewReader(archive.Bytes())); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkFileHashes is the cost of hashing each file beside the archive.
func BenchmarkFileHashes(b *testing.B) {
	for _, shape := range []struct {
		name        string
		files, size int
	}{{"small", 20_000, 4800}, {"large", 4, 64 << 20}} {
		dir := filepath.Join(memDir(b), shape.name)
		text := noise(shape.size)
		for i := range shape.files {
			sub := filepath.Join(dir, fmt.Sprint(i/100))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), text, 0o644); err != nil {
				b.Fatal(err)
			}
		}
		c := candidates(100)
		for name, file := range map[string]FileFunc{"without": nil, "with": func(string, store.Kind, [32]byte) {}} {
			b.Run(shape.name+"/ingest/"+name, func(b *testing.B) {
				for b.Loop() {
					o := IngestOptions{UID: -1, GID: -1, Candidates: NewCandidates(c), File: file}
					if _, err := Ingest(context.Background(), dir, o); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
