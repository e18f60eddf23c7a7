package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"storefs/tree"
)

// sweepChunk is how many names are compared with the database at a time: a
// store may hold more than one would like to have in memory.
const sweepChunk = 4096

// sweep removes what an owner that was killed left behind: everything in
// builds/, and what is in real/ without being valid.
func (s *State) sweep() error {
	mark, err := s.db.Mark()
	if err != nil {
		return err
	}
	now, err := s.realTime()
	if err != nil {
		return err
	}
	// From here on a kill leaves things to sweep.
	if err := s.db.SetMark(context.Background(), ""); err != nil {
		return err
	}
	if err := sweepDir(s.path("builds"), notKept); err != nil {
		return err
	}
	// After an orderly end real/ holds what is valid and nothing else, unless
	// somebody has changed it since, which its time would show.
	if mark != "" && mark == now {
		return nil
	}
	if err := sweepDir(s.path("hashes"), s.db.NotValid); err != nil {
		return err
	}
	return sweepDir(s.path("real"), s.db.NotValid)
}

// keptPrefix begins the names in builds/ of failed builds that their user wanted
// to look at. They are his to remove.
const keptPrefix = "kept-"

func notKept(names []string) ([]string, error) {
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, keptPrefix) }), nil
}

// sweepDir removes those entries of dir that choose picks.
func sweepDir(dir string, choose func(names []string) ([]string, error)) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, readErr := f.Readdirnames(sweepChunk)
		slices.Sort(names) // neighbours in the database, too
		doomed, err := choose(names)
		if err != nil {
			return err
		}
		for _, n := range doomed {
			if err := tree.RemoveAll(dir + "/" + n); err != nil {
				return fmt.Errorf("leftover: %w", err)
			}
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// markClean notes that there will be nothing to sweep.
func (s *State) markClean() error {
	now, err := s.realTime()
	if err != nil {
		return err
	}
	return s.db.SetMark(context.Background(), now)
}

// realTime tells states of real/ apart: its time changes with every name that
// comes or goes.
func (s *State) realTime() (string, error) {
	st, err := s.real.Stat()
	if err != nil {
		return "", err
	}
	return strconv.FormatInt(st.ModTime().UnixNano(), 10), nil
}
