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
// builds/, and, later, what is in real/ without being valid, if left says so.
func (s *State) sweep() (left bool, err error) {
	mark, err := s.db.Mark()
	if err != nil {
		return false, err
	}
	now, err := s.realTime()
	if err != nil {
		return false, err
	}
	s.mark = mark
	s.unclean.Store(mark == "")
	// At once, as scratch begins with the same names.
	if err := s.sweepDir("builds", s.unfinished); err != nil {
		return false, err
	}
	// After an orderly end real/ holds what is valid and nothing else, unless
	// somebody has changed it since, which its time would show.
	return mark == "" || mark != now, nil
}

// unfinished are those of names in builds/ that nobody wants any more. What was to take the
// place of an object that is being removed does so before anybody sees that.
func (s *State) unfinished(names []string) ([]string, error) {
	for _, n := range names {
		if name, is := strings.CutPrefix(n, replacementPrefix); is {
			if err := s.finishReplacing(name); err != nil {
				return nil, fmt.Errorf("finish the repair of %s: %w", name, err)
			}
		}
	}
	return notKept(names)
}

// sweepStore removes what is in real/ without being valid, or about to become
// so. To look through it takes seconds if it holds a million objects; what is
// in it without being valid means nothing to anybody, so that nobody has to
// wait for that.
func (s *State) sweepStore() error {
	for _, dir := range []string{"hashes", "real"} {
		err := s.sweepDir(dir, func(names []string) ([]string, error) {
			doomed, err := s.db.NotValid(names)
			if err != nil {
				return nil, err
			}
			for _, n := range doomed {
				if err := s.discard(dir, n); err != nil {
					return nil, fmt.Errorf("leftover: %w", err)
				}
			}
			return nil, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// discard removes the name in dir, unless it is valid by now.
func (s *State) discard(dir, name string) error {
	trash := s.newScratch("leftover")
	err := s.setAside(s.path(dir, name), name, trash)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return tree.RemoveAll(trash)
}

// setAside moves path, which belongs to the object called name, to trash unless
// the object is valid: whoever makes it so has it to himself meanwhile.
func (s *State) setAside(path, name, trash string) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	names := []string{name}
	unlock, err := s.placing.lock(context.Background(), names, nil)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.Touch(); err != nil {
		return err
	}
	if doomed, err := s.db.NotValid(names); err != nil || len(doomed) == 0 {
		return err
	}
	return moveOut(path, trash)
}

// Swept waits until nothing of what an earlier owner left unfinished is there
// any more, and returns what is in the way of that.
func (s *State) Swept() error {
	<-s.swept
	return s.sweepErr
}

// sweepDir removes those entries of dir that choose picks.
func (s *State) sweepDir(dir string, choose func(names []string) ([]string, error)) error {
	dir = s.path(dir)
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

// Touch notes that a kill leaves things to sweep from here on. Whoever changes
// real/ calls it before; an owner that finds everything done never does, and
// writes nothing. To call it as soon as something is to be built spares the first
// registration the wait. What may be registered is not touched: whoever changes what
// has a name calls it when nobody else can be about to register that.
func (s *State) Touch() error {
	if s.db.InDoubt() {
		if err := s.db.Certain(context.Background()); err != nil {
			return err
		}
	}
	if s.unclean.Load() {
		return nil
	}
	s.marking.Lock()
	defer s.marking.Unlock()
	if s.mark != "" {
		if err := s.db.SetMark(context.Background(), ""); err != nil {
			return err
		}
		s.mark = ""
		s.unclean.Store(true)
	}
	return nil
}

// markClean notes that there will be nothing to sweep, unless that is what the
// database says already, or there will be something.
func (s *State) markClean() error {
	s.marking.Lock()
	defer s.marking.Unlock()
	if s.left.Load() {
		return nil
	}
	now, err := s.realTime()
	if err != nil || s.mark == now {
		return err
	}
	if err := s.db.SetMark(context.Background(), now); err != nil {
		return err
	}
	s.mark = now
	s.unclean.Store(false)
	return nil
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
