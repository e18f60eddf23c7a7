package builder

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"storefs/integrity"
	"storefs/nar"
	"storefs/store"
	"storefs/storeexpr"
)

// outputs brings what the builder left into canonical form. The builder is gone:
// nothing changes under our hands.
func (b *build) outputs(ctx context.Context) ([]Output, error) {
	d := b.job.Derivation
	candidates := make([]store.Path, 0, len(b.job.Inputs)+len(d.Outputs))
	for _, in := range b.job.Inputs {
		candidates = append(candidates, in.Path)
	}
	candidates = append(candidates, d.OutputList()...)
	_, fixed := d.Fixed()

	if b.ids.uid == os.Geteuid() {
		if err := b.scratch.reopen(); err != nil {
			return nil, err
		}
	}
	// All of them are looked for before any is read, which may take long.
	for _, o := range d.Outputs {
		st, err := os.Lstat(b.scratchOf(o.Path))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fail(store.CauseRefused, "the builder succeeded, but did not make its output %s", o.Path)
		}
		if err != nil {
			return nil, err
		}
		// As Nix has it: then somebody else could have written there.
		if st.Mode().Type() != fs.ModeSymlink && st.Mode()&0o022 != 0 {
			return nil, fail(store.CauseRefused, "output %s is left writable for others than its owner (%s)", o.Path, st.Mode())
		}
	}
	var outputs []Output
	for _, o := range d.Outputs {
		scratch := b.scratchOf(o.Path)
		var files integrity.Recorder
		options := nar.IngestOptions{UID: os.Geteuid(), GID: os.Getegid(), Candidates: candidates, File: files.File}
		var got nar.Summary
		var err error
		if fixed {
			// Its builder had the network, and may have given files to others that are
			// open for writing. Nobody ever had one of the copy.
			dest := b.scratch.copyOf(o.Path)
			got, err = nar.IngestCopy(ctx, scratch, dest, options)
			scratch = dest
		} else {
			got, err = nar.Ingest(ctx, scratch, options)
		}
		if err != nil {
			return nil, err
		}
		if want := b.job.Kinds[o.Path]; want != store.KindUnknown && want != got.Kind {
			return nil, fail(store.CauseRefused, "output %s is %s, and was declared to be %s", o.Path, describeKind(got.Kind), describeKind(want))
		}
		info := store.Info{
			Path: o.Path, Kind: got.Kind, NarHash: got.Hash, NarSize: got.Size,
			References: got.References, Deriver: b.job.Drv,
		}
		if fixed {
			if info.CA, err = checkFixed(o, scratch, got); err != nil {
				return nil, err
			}
		}
		outputs = append(outputs, Output{Name: o.Name, Info: info, Scratch: scratch, Files: files.Files(got)})
	}
	return outputs, nil
}

func (b *build) scratchOf(p store.Path) string {
	return b.scratch.path("store", p.Base())
}

// checkFixed holds a fixed output to its promise, and returns its content
// address.
func checkFixed(o storeexpr.Output, file string, got nar.Summary) (ca string, err error) {
	want, recursive, err := o.Content()
	if err != nil {
		return "", fail(store.CauseExpr, "fixed output %s: %v", o.Path, err)
	}
	if !recursive && got.Kind != store.KindRegular {
		return "", fail(store.CauseRefused, "fixed output %s is %s, and its hash is that of one file that cannot be executed", o.Path, describeKind(got.Kind))
	}
	have, err := contentHash(want.Algo, recursive, file, got)
	if err != nil {
		return "", err
	}
	if !have.Equal(want) {
		return "", fail(store.CauseHash, "hash mismatch in fixed output: want %s got %s", want.SRI(), have.SRI())
	}
	if len(got.References) > 0 {
		// Its name says what is in it, and nothing of what that needs.
		return "", fail(store.CauseRefused, "fixed output %s must not refer to %s", o.Path, got.References[0])
	}
	if recursive {
		return "fixed:r:" + have.String(), nil
	}
	return "fixed:" + have.String(), nil
}

func contentHash(a store.Algo, recursive bool, file string, got nar.Summary) (store.Hash, error) {
	if recursive && a == store.SHA256 {
		return got.Hash, nil
	}
	h := a.New()
	if recursive {
		if err := nar.Dump(h, file); err != nil {
			return store.Hash{}, err
		}
	} else {
		f, err := os.Open(file)
		if err != nil {
			return store.Hash{}, err
		}
		defer f.Close()
		if _, err := io.Copy(h, f); err != nil {
			return store.Hash{}, err
		}
	}
	return store.Hash{Algo: a, Sum: string(h.Sum(nil))}, nil
}
