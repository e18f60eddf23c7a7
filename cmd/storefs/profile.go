package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// profile is the file that --profile names. It is opened before anything is built,
// so that nobody hears at the end that it cannot be had, and keeps what is in it
// until there is something else to write.
type profile struct {
	file    *os.File
	made    bool // it was not there before
	written bool
}

// openProfile returns nil if there is no name. It waits for whoever reads it, if that
// is a FIFO, until ctx ends.
func openProfile(ctx context.Context, name string) (*profile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	made := err == nil
	if errors.Is(err, os.ErrExist) {
		opened := make(chan struct{})
		var file *os.File
		var failure error
		go func() {
			defer close(opened)
			file, failure = os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o666)
		}()
		select {
		case <-opened:
			f, err = file, failure
		case <-ctx.Done(): // the process ends, and with it the system call that waits
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, badInput(fmt.Errorf("profile: %w", err))
	}
	return &profile{file: f, made: made}, nil
}

// write fills the file, in the place of what was in it. If there is no room, that
// stays, or the file is empty: half of a trace is of no use.
func (p *profile) write(trace func(io.Writer) error) error {
	p.written = false
	var b bytes.Buffer
	var err error
	if strings.HasSuffix(p.file.Name(), ".gz") { // what shows traces takes them so
		z := gzip.NewWriter(&b)
		err = errors.Join(trace(z), z.Close())
	} else {
		err = trace(&b)
	}
	if err == nil {
		err = p.fill(b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	p.written = true
	return nil
}

func (p *profile) fill(text []byte) error {
	info, err := p.file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		_, err = p.file.Write(text)
		return err
	}
	// Where that cannot be asked for, it turns out when it is written.
	err = unix.Fallocate(int(p.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(len(text)))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &os.PathError{Op: "write", Path: p.file.Name(), Err: err}
	}
	if _, err = p.file.WriteAt(text, 0); err == nil {
		err = p.file.Truncate(int64(len(text)))
	}
	if err != nil {
		return errors.Join(err, p.file.Truncate(0))
	}
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
