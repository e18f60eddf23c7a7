package nar

import (
	"context"
	"io"
	"sync"
)

// parallelBytes is how much of an archive is handled by one goroutine before
// the stages get goroutines of their own.
const parallelBytes = 128 << 10

// pipeline carries the blocks of an archive, in their order, through stages: the
// scan, the hash, a writer. It begins in its caller's goroutine, so that a small
// output costs no hand-over; from parallelBytes on, each stage has a goroutine,
// so that a large file is read, scanned and hashed side by side.
type pipeline struct {
	ctx    context.Context
	fail   context.CancelCauseFunc // ends everything; the first cause stays
	stages []io.Writer

	first chan []byte    // to the first stage's goroutine, nil as long as there is none
	spare chan []byte    // used blocks
	wg    sync.WaitGroup // everything that was started on the way
	total int64
}

func newPipeline(ctx context.Context, stages []io.Writer) *pipeline {
	ctx, fail := context.WithCancelCause(ctx)
	return &pipeline{ctx: ctx, fail: fail, stages: stages, spare: make(chan []byte, 16)}
}

// put gives a block to the stages. Only one goroutine at a time may do it.
func (p *pipeline) put(block []byte) error {
	p.total += int64(len(block))
	if p.first == nil && p.total > parallelBytes {
		p.start()
	}
	if p.first != nil {
		return send(p.ctx, p.first, block)
	}
	for _, stage := range p.stages {
		if _, err := stage.Write(block); err != nil {
			return err
		}
	}
	p.reuse(block)
	return context.Cause(p.ctx)
}

func (p *pipeline) start() {
	p.first = make(chan []byte, 2)
	next := p.first
	for i, stage := range p.stages {
		in := next
		next = nil
		if i+1 < len(p.stages) {
			next = make(chan []byte, 2)
		}
		out := next
		p.wg.Go(func() { p.serve(stage, in, out) })
	}
}

// serve is the goroutine of one stage. After a failure it only drains.
func (p *pipeline) serve(stage io.Writer, in <-chan []byte, out chan<- []byte) {
	for block := range in {
		if p.ctx.Err() != nil {
			continue
		}
		if _, err := stage.Write(block); err != nil {
			p.fail(err)
		} else if out == nil {
			p.reuse(block)
		} else if err := send(p.ctx, out, block); err != nil {
			continue
		}
	}
	if out != nil {
		close(out)
	}
}

// closeInput says that no more blocks will be put.
func (p *pipeline) closeInput() {
	if p.first != nil {
		close(p.first)
	}
}

// end waits for everything that was started, once the input is closed, and
// returns the first failure.
func (p *pipeline) end() error {
	p.wg.Wait()
	err := context.Cause(p.ctx)
	p.fail(nil)
	return err
}

// fresh is an empty block. It may be called from any goroutine.
func (p *pipeline) fresh() []byte {
	select {
	case b := <-p.spare:
		return b
	default:
		return make([]byte, 0, blockSize)
	}
}

func (p *pipeline) reuse(block []byte) {
	if cap(block) < blockSize {
		return
	}
	select {
	case p.spare <- block[:0]:
	default:
	}
}

// send gives v to ch, unless ctx ends first.
func send[T any](ctx context.Context, ch chan<- T, v T) error {
	select {
	case ch <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
