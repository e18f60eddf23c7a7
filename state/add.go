package state

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"storefs/db"
	"storefs/integrity"
	"storefs/nar"
	"storefs/store"
	"storefs/tree"
)

// AddNAR adds a source: r is the NAR of a file, link or directory that is to be
// called name. Its path follows from its content: from the hash of the NAR or,
// if recursive is false, of the one file that it holds; algo is sha256 unless
// the source stands for a fixed output of another kind.
func (s *State) AddNAR(ctx context.Context, name string, recursive bool, algo store.Algo, r io.Reader) (store.Info, error) {
	info, err := s.addNAR(ctx, name, recursive, algo, r)
	if err != nil {
		return store.Info{}, fmt.Errorf("add %q: %w", name, diskError(err))
	}
	return info, nil
}

func (s *State) addNAR(ctx context.Context, name string, recursive bool, algo store.Algo, r io.Reader) (store.Info, error) {
	if err := store.CheckName(name); err != nil {
		return store.Info{}, err
	}
	if store.Path("/" + name).IsDerivation() {
		return store.Info{}, fmt.Errorf("the name is that of a derivation, which is imported instead: %w", store.ErrBadPath)
	}
	content := algo.New()
	if content == nil {
		return store.Info{}, fmt.Errorf("hash algorithm %q: not one of md5, sha1, sha256, sha512", algo)
	}
	narHash := recursive && algo == store.SHA256 // that is what restore computes
	if recursive && !narHash {
		r = io.TeeReader(r, content)
	}
	since := s.since()
	scratch := s.newScratch("add")
	defer tree.RemoveAll(scratch)
	sum, files, err := restore(ctx, r, scratch)
	if err != nil {
		return store.Info{}, err
	}
	if !recursive {
		if err := hashFile(content, scratch, sum.Kind); err != nil {
			return store.Info{}, err
		}
	}
	h := sum.Hash
	if !narHash {
		h = store.Hash{Algo: algo, Sum: string(content.Sum(nil))}
	}
	p, err := store.FixedPath(s.store, recursive, h, name, nil, false)
	if err != nil {
		return store.Info{}, err
	}
	o := object{scratch: scratch, files: files, info: store.Info{
		Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, CA: fixedCA(recursive, h), Registered: now(),
	}}
	if err := s.place(ctx, []object{o}, db.Registration{Still: &since}, nil, nil); err != nil {
		return store.Info{}, err
	}
	if s.Lost(p) {
		if err := s.mend(ctx, o, &since); err != nil {
			return store.Info{}, err
		}
	}
	return s.db.Info(p) // by this call or by one before it
}

// restore makes scratch of the NAR that is all of r, hashing it on the way:
// what is restored is canonical, so the NAR of the result is r again. It records
// the hashes of the files, if they are worth it.
func restore(ctx context.Context, r io.Reader, scratch string) (nar.Summary, *integrity.Files, error) {
	h := &counter{Hash: store.SHA256.New()}
	var files integrity.Recorder
	err := nar.Restore(io.TeeReader(contextReader{ctx, r}, h), scratch, nar.RestoreOptions{File: files.File})
	if err != nil {
		return nar.Summary{}, nil, err
	}
	kind, err := kindOf(scratch)
	if err != nil {
		return nar.Summary{}, nil, err
	}
	sum := nar.Summary{Kind: kind, Hash: store.Hash{Algo: store.SHA256, Sum: string(h.Sum(nil))}, Size: h.n}
	return sum, files.Files(sum), nil
}

type counter struct {
	hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func hashFile(h hash.Hash, path string, kind store.Kind) error {
	if kind != store.KindRegular {
		return errors.New("only one file that is not executable can be added flat")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}

func kindOf(path string) (store.Kind, error) {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return store.KindUnknown, err
	case st.IsDir():
		return store.KindDirectory, nil
	case st.Mode().Type() == os.ModeSymlink:
		return store.KindSymlink, nil
	case st.Mode().Type() != 0:
		return store.KindUnknown, fmt.Errorf("%s: neither file, link nor directory: %w", path, store.ErrUnfit)
	case st.Mode()&0o111 != 0:
		return store.KindExecutable, nil
	}
	return store.KindRegular, nil
}

// NewText is a text file that is to be added.
type NewText struct {
	Name       string
	Text       []byte
	References []store.Path
}

// AddText adds one text file; see AddTexts.
func (s *State) AddText(ctx context.Context, name string, text []byte, refs []store.Path) (store.Info, error) {
	infos, err := s.AddTexts(ctx, []NewText{{name, text, refs}})
	if err != nil {
		return store.Info{}, err
	}
	return infos[0], nil
}

// AddTexts adds text files, whose paths follow from text, name and references,
// all with one sync and in one transaction, or none of them. What a text refers
// to must be valid or come before it.
func (s *State) AddTexts(ctx context.Context, texts []NewText) ([]store.Info, error) {
	b := s.newBatch()
	infos := make([]store.Info, len(texts))
	for i, t := range texts {
		var err error
		if err = ctx.Err(); err == nil {
			infos[i], err = b.addText(t)
		}
		if err != nil {
			return nil, fmt.Errorf("add %q: %w", t.Name, diskError(err))
		}
	}
	if err := b.commit(ctx); err != nil {
		return nil, fmt.Errorf("add texts: %w", diskError(err))
	}
	return infos, nil
}

func (b *batch) addText(t NewText) (store.Info, error) {
	if strings.HasSuffix(t.Name, ".drv") {
		return store.Info{}, fmt.Errorf("the name is that of a derivation, which is imported instead: %w", store.ErrBadPath)
	}
	p, err := store.TextPath(b.state.store, t.Name, t.Text, t.References)
	if err != nil {
		return store.Info{}, err
	}
	if info, ok := b.own[p]; ok {
		return info, nil
	}
	info, err := b.state.db.Info(p)
	lost := err == nil && b.state.Lost(p)
	if !errors.Is(err, store.ErrNotValid) && !lost {
		return info, err
	}
	for _, r := range t.References {
		ok, err := b.valid(r)
		if err != nil {
			return store.Info{}, err
		}
		if !ok {
			return store.Info{}, fmt.Errorf("it refers to %s: %w", r, store.ErrNotValid)
		}
	}
	o := textObject(p, t.Text, t.References, textCA(t.Text))
	o.lost = lost
	b.add(o)
	return o.info, nil
}

// textObject is the object of a text, which is to be p.
func textObject(p store.Path, text []byte, refs []store.Path, ca string) object {
	sum := nar.TextSummary(text)
	refs = slices.Clone(refs)
	slices.Sort(refs)
	return object{text: text, info: store.Info{
		Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size,
		References: slices.Compact(refs), CA: ca, Registered: now(),
	}}
}

// fixedCA and textCA say how a name follows from its content, as Nix writes it.
func fixedCA(recursive bool, h store.Hash) string {
	if recursive {
		return "fixed:r:" + h.String()
	}
	return "fixed:" + h.String()
}

func textCA(text []byte) string { return "text:" + store.HashOf(store.SHA256, text).String() }

func now() int64 { return time.Now().Unix() }
