package state

import (
	"errors"
	"fmt"
	"os"

	"storefs/integrity"
	"storefs/store"
)

// Files are the hashes of an object's files as they were recorded, nil if they
// were not, or if the record is not that of the object any more.
func (s *State) Files(info store.Info) (*integrity.Files, error) {
	data, err := os.ReadFile(s.filesOf(info.Path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hashes of the files of %s: %w", info.Path, err)
	}
	f, err := integrity.DecodeFiles(data, info.NarHash)
	if err != nil {
		return nil, nil
	}
	return f, nil
}

// SetFiles records the hashes of the files of an object that is valid.
func (s *State) SetFiles(info store.Info, f *integrity.Files) error {
	// Not while it is deleted: the record would stay.
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.Touch(); err != nil {
		return err
	}
	now, err := s.db.Info(info.Path)
	if err != nil || !now.NarHash.Equal(info.NarHash) {
		return err
	}
	return s.writeFiles(info.Path, f)
}

// writeFiles puts a record into its place; a nil one removes what is there.
func (s *State) writeFiles(p store.Path, f *integrity.Files) error {
	to := s.filesOf(p)
	if f == nil {
		if err := os.Remove(to); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	scratch := s.newScratch("hashes")
	err := os.WriteFile(scratch, f.Bytes(), 0o444)
	if err == nil {
		err = os.Rename(scratch, to)
	}
	if err != nil {
		_ = os.Remove(scratch)
		return fmt.Errorf("record the hashes of the files of %s: %w", p, err)
	}
	return nil
}

// filesOf is where the hashes of an object's files are, if they are recorded.
func (s *State) filesOf(p store.Path) string { return s.path("hashes", p.Base()) }
