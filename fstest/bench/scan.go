package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"

	"storefs/references"
)

// scan: text made of nothing but near-hashes, and noise, looked through for few
// and for many candidates, beside SHA-256 of it.
func (b *bench) scan() error {
	const megabytes = 64
	r := rand.NewChaCha8([32]byte{1})
	fill := func(alphabet string) []byte {
		text := make([]byte, megabytes<<20)
		r.Read(text)
		if alphabet != "" {
			for i, c := range text {
				text[i] = alphabet[int(c)%len(alphabet)]
			}
		}
		return text
	}
	for _, text := range []struct{ name, alphabet string }{
		{"noise", ""}, {"hexadecimal", "0123456789abcdef"}, {"base-32", "0123456789abcdfghijklmnpqrsvwxyz"}, {"zeros", "0"},
	} {
		data := fill(text.alphabet)
		for _, n := range []int{1, 100, 10_000} {
			digests := make([]string, n)
			for i := range digests {
				digests[i] = b.path("candidate", i).Digest()
			}
			if err := b.measure(pair{
				work: fmt.Sprintf("scan of %s, %d candidates, a MiB", text.name, n), peer: "SHA-256 of it", each: megabytes,
				ours: func() error {
					_, err := references.New(digests).Write(data)
					return err
				},
				theirs: func() error { sha256.Sum256(data); return nil },
			}, min(b.runs, 3)); err != nil {
				return err
			}
		}
	}
	return nil
}
