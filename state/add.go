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
	"storefs/nar"
	"storefs/store"
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
	if recursive {
		r = io.TeeReader(r, content)
	}
	scratch := s.newScratch("add")
	defer RemoveAll(scratch)
	sum, err := restore(ctx, r, scratch)
	if err != nil {
		return store.Info{}, err
	}
	if !recursive {
		if err := hashFile(content, scratch, sum.Kind); err != nil {
			return store.Info{}, err
		}
	}
	h := store.Hash{Algo: algo, Sum: string(content.Sum(nil))}
	p, err := store.FixedPath(s.store, recursive, h, name, nil, false)
	if err != nil {
		return store.Info{}, err
	}
	return s.placeOne(ctx, object{scratch: scratch, info: store.Info{
		Path: p, Kind: sum.Kind, NarHash: sum.Hash, NarSize: sum.Size, CA: fixedCA(recursive, h), Registered: now(),
	}})
}

// restore makes scratch of the NAR that is all of r, hashing it on the way:
// what is restored is canonical, so the NAR of the result is r again.
func restore(ctx context.Context, r io.Reader, scratch string) (nar.Summary, error) {
	h := &counter{Hash: store.SHA256.New()}
	if err := nar.Restore(io.TeeReader(contextReader{ctx, r}, h), scratch, nar.RestoreOptions{}); err != nil {
		return nar.Summary{}, err
	}
	kind, err := kindOf(scratch)
	return nar.Summary{Kind: kind, Hash: store.Hash{Algo: store.SHA256, Sum: string(h.Sum(nil))}, Size: h.n}, err
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

// AddText adds a file with the given text, whose path follows from the text,
// the name, and refs, which must be valid.
func (s *State) AddText(ctx context.Context, name string, text []byte, refs []store.Path) (store.Info, error) {
	info, err := s.addText(ctx, name, text, refs)
	if err != nil {
		return store.Info{}, fmt.Errorf("add %q: %w", name, diskError(err))
	}
	return info, nil
}

func (s *State) addText(ctx context.Context, name string, text []byte, refs []store.Path) (store.Info, error) {
	if strings.HasSuffix(name, ".drv") {
		return store.Info{}, fmt.Errorf("the name is that of a derivation, which is imported instead: %w", store.ErrBadPath)
	}
	p, err := store.TextPath(s.store, name, text, refs)
	if err != nil {
		return store.Info{}, err
	}
	if info, err := s.db.Info(p); err == nil {
		return info, nil
	}
	o, err := s.writeText(p, text, refs, textCA(text))
	if err != nil {
		return store.Info{}, err
	}
	defer RemoveAll(o.scratch)
	return s.placeOne(ctx, o)
}

// placeOne places o, and returns what is registered of its path: by this call
// or by one before it.
func (s *State) placeOne(ctx context.Context, o object) (store.Info, error) {
	if err := s.place(ctx, []object{o}, db.Registration{}); err != nil {
		return store.Info{}, err
	}
	return s.db.Info(o.info.Path)
}

// writeText makes a canonical file of text in scratch, which is to be p.
func (s *State) writeText(p store.Path, text []byte, refs []store.Path, ca string) (object, error) {
	scratch := s.newScratch("text")
	err := os.WriteFile(scratch, text, 0o444)
	if err == nil {
		err = os.Chmod(scratch, 0o444) // whatever the umask is
	}
	if err == nil {
		err = os.Chtimes(scratch, time.Unix(1, 0), time.Unix(1, 0))
	}
	h := &counter{Hash: store.SHA256.New()}
	if err == nil {
		err = nar.Dump(h, scratch)
	}
	if err != nil {
		return object{}, errors.Join(err, RemoveAll(scratch))
	}
	refs = slices.Clone(refs)
	slices.Sort(refs)
	return object{scratch: scratch, info: store.Info{
		Path: p, Kind: store.KindRegular,
		NarHash: store.Hash{Algo: store.SHA256, Sum: string(h.Sum(nil))}, NarSize: h.n,
		References: slices.Compact(refs), CA: ca, Registered: now(),
	}}, nil
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
