package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// profile is the file that --profile names. It is opened before anything is built,
// so that nobody hears at the end that it cannot be had, and keeps what is in it
// until there is something else to write.
type profile struct {
	file    *os.File
	made    bool // it was not there before
	written bool
}

// openProfile returns nil if there is no name.
func openProfile(name string) (*profile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	made := err == nil
	if errors.Is(err, os.ErrExist) {
		f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
	}
	if err != nil {
		return nil, badInput(fmt.Errorf("profile: %w", err))
	}
	return &profile{file: f, made: made}, nil
}

// write fills the file, in the place of what was in it.
func (p *profile) write(trace func(io.Writer) error) error {
	p.written = false
	info, err := p.file.Stat()
	if err == nil && info.Mode().IsRegular() {
		if err = p.file.Truncate(0); err == nil {
			_, err = p.file.Seek(0, io.SeekStart)
		}
	}
	if err == nil {
		err = trace(p.file)
	}
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	p.written = true
	return nil
}

// close leaves no file that has nothing in it.
func (p *profile) close() error {
	if p == nil {
		return nil
	}
	err := p.file.Close()
	if p.made && !p.written {
		err = errors.Join(err, os.Remove(p.file.Name()))
	}
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}
