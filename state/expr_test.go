package state

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// An expression that is deleted while it is being read is not there afterwards.
func TestDeletedWhileItIsRead(t *testing.T) {
	s := newState(t)
	p, d := derivation(t, s, "x", []string{"out"}, nil, nil)
	file := s.Real(p)
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(file, 0o600); err != nil { // whose reader waits for the text
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := s.Expr(p)
		read <- err
	}()
	w, err := os.OpenFile(file, os.O_WRONLY, 0) // when it is opened for reading
	if err == nil {
		err = os.Rename(file+".away", file)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(context.Background(), p); err != nil {
		t.Error(err)
	}
	if _, err := w.Write(d.AppendText(nil)); err != nil {
		t.Error(err)
	}
	w.Close()
	for _, err := range []error{<-read, func() error { _, err := s.Expr(p); return err }()} {
		if !errors.Is(err, store.ErrNotValid) {
			t.Errorf("got %v, want ErrNotValid", err)
		}
	}
}
