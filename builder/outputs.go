package builder

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"storefs/integrity"
	"storefs/nar"
	"storefs/store"
)

// outputs brings what the builder left into canonical form. The builder is gone:
// nothing changes under our hands.
func (b *build) outputs(ctx context.Context) ([]Output, error) {
	d := b.job.Derivation
	may := make([]store.Path, 0, len(b.job.Inputs)+len(d.Outputs))
	for _, in := range b.job.Inputs {
		may = append(may, in.Path)
	}
	candidates := nar.NewCandidates(append(may, d.OutputList()...))
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
		discards, err := b.attrs.discards(o.Name)
		if err != nil {
			return nil, err
		}
		if discards {
			options.Candidates = nil
		}
		var got nar.Summary
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
			hint := ""
			if want == store.KindDirectory {
				hint = " (as it is in Starlark where kind= says nothing else)"
			}
			return nil, fail(store.CauseRefused, "output %s is %s, and was declared to be %s%s", o.Path, describeKind(got.Kind), describeKind(want), hint)
		}
		out := Output{Name: o.Name, Scratch: scratch, Files: files.Files(got), Info: store.Info{
			Path: o.Path, Kind: got.Kind, NarHash: got.Hash, NarSize: got.Size,
			References: got.References, Deriver: b.job.Drv,
		}}
		if fixed {
			if out.Info.CA, err = b.checkFixed(ctx, o, out); err != nil {
				return nil, err
			}
		}
		outputs = append(outputs, out)
	}
	return outputs, nil
}

func (b *build) scratchOf(p store.Path) string {
	return b.scratch.path("store", p.Base())
}
