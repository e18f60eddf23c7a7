package daemon

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

func TestAnswerBody(t *testing.T) {
	newBody := func(t *testing.T) (*answerBody, context.Context) {
		ctx, leave := context.WithCancel(t.Context())
		b := &answerBody{leave: leave}
		b.changed.L = &b.mu
		return b, ctx
	}
	synctest.Test(t, func(t *testing.T) {
		// The writer waits when there is much, and goes on when that was read.
		b, _ := newBody(t)
		written := 0
		go func() {
			for range 8 {
				n, _ := b.write(make([]byte, maxKept/4))
				written += n
			}
			b.fail(io.EOF)
		}()
		synctest.Wait()
		if written != maxKept {
			t.Errorf("%d bytes are kept", written)
		}
		all, err := io.ReadAll(b)
		if len(all) != 2*maxKept || err != nil {
			t.Errorf("%d bytes, %v", len(all), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// A reader that goes ends that, and is told of.
		b, ctx := newBody(t)
		failed := make(chan error, 1)
		go func() {
			for {
				if _, err := b.write(make([]byte, maxKept)); err != nil {
					failed <- err
					return
				}
			}
		}()
		synctest.Wait()
		b.Close()
		if err := <-failed; !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		if ctx.Err() == nil {
			t.Error("the handler was not told")
		}
		if _, err := b.Read(make([]byte, 1)); err == nil {
			t.Error("it can be read when it is closed")
		}
	})
}
